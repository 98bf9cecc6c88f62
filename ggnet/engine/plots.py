"""The plots in a run folder."""

from pathlib import Path

from ggnet.data.annotations import load_dataset
from ggnet.engine.evaluation import RESULTS
from ggnet.eval.report import Report
from ggnet.viz.curves import plot_curves, plot_hoi_ap
from ggnet.viz.precision_recall import plot_precision_recall

CURVES, HOI_AP, PRECISION_RECALL = "curves.png", "ap_per_hoi.png", "precision_recall.png"


def plot_training(run: Path, root: str, report: Report | None) -> None:
    """Curves of a run on the dataset `root` and, where its metric has HOIs, the AP of each.

    Raises:
        UserError: the run has no results, or a file cannot be written.
    """
    plot_curves(run / RESULTS, run / CURVES)
    hoi_ap = report.result.hoi_ap() if report is not None else None
    if hoi_ap is not None:
        plot_hoi_ap(hoi_ap, load_dataset(root).train_counts, run / HOI_AP)


def plot_classes(report: Report, folder: Path) -> None:
    """Precision over recall: V-COCO's roles, or the most frequent HOIs.

    Raises:
        UserError: the file cannot be written.
    """
    if curves := report.result.named_curves():
        plot_precision_recall(curves, folder / PRECISION_RECALL)
