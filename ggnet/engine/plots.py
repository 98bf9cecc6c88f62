"""The plots in a run folder."""

from pathlib import Path

from ggnet.engine.evaluation import RESULTS
from ggnet.eval.report import Report
from ggnet.viz.curves import plot_curves, plot_hoi_ap
from ggnet.viz.f1 import plot_f1
from ggnet.viz.precision_recall import plot_precision_recall

CURVES, HOI_AP = "curves.png", "ap_per_hoi.png"
PRECISION_RECALL, F1 = "precision_recall.png", "f1.png"


def plot_training(run: Path) -> None:
    """Losses, AP and speed over the epochs.

    This plot comes last: `is_plotted` knows by it that all are there.

    Raises:
        UserError: the run has no results, or a file cannot be written.
    """
    plot_curves(run / RESULTS, run / CURVES)


def is_plotted(run: Path) -> bool:
    """Whether the plots of a finished run are there, and of its last results."""
    try:
        return (run / CURVES).stat().st_mtime_ns >= (run / RESULTS).stat().st_mtime_ns
    except OSError:
        return False


def plot_report(report: Report, folder: Path) -> None:
    """What an evaluation's metric has: precision over recall of V-COCO's roles or the most
    frequent HOIs, F1 over the score, AP of each HOI.

    Raises:
        UserError: a file cannot be written.
    """
    if curves := report.result.named_curves():
        plot_precision_recall(curves, folder / PRECISION_RECALL)
    if report.f1 is not None and report.f1.best() is not None:
        plot_f1(report.f1, folder / F1)
    found, counts = report.result.hoi_ap(), report.train_counts
    if found is not None and counts is not None:
        plot_hoi_ap(found, counts, folder / HOI_AP)
