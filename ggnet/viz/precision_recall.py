"""Precision over recall, class by class."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ggnet.eval.curve import Curve
from ggnet.viz import style

COLUMNS, MOST = 5, 30


def plot_precision_recall(curves: Mapping[str, Curve], picture: str | Path) -> None:
    """One small plot for each class, as one PNG; of more than 30 classes, the first 30.

    Args:
        curves: a result's `named_curves()`.

    Raises:
        ValueError: no curves.
        UserError: the file cannot be written.
    """
    if not curves:
        raise ValueError("curves is empty; expected at least one class")
    shown = list(curves.items())[:MOST]
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.25 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (name, curve) in zip(grid.flat, shown, strict=False):
        envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
        axes.plot(curve.recall, curve.precision, color="tab:blue", alpha=0.35, linewidth=1)
        axes.plot(curve.recall, envelope, color="tab:blue", linewidth=1.5)
        title = f"{name.replace('_', ' ')}\nAP {curve.ap:.1f}, {curve.positives} pairs"
        axes.set_title(title, fontsize=8, family=style.families(title))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_xlim(0, 1.02)
    grid[0, 0].set_ylim(0, 1.02)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    style.save_figure(picture, figure)
