"""Precision over recall, class by class."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ggnet.io import atomic_write

COLUMNS, MOST = 5, 30


def plot_precision_recall(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], picture: str | Path
) -> None:
    """One small plot for each class, as one PNG; of more than 30 classes, the first 30.

    Args:
        curves: class -> precision and recall by falling score, as fractions: a result's
            `named_curves()`.

    Raises:
        ValueError: no curves.
        UserError: the file cannot be written.
    """
    if not curves:
        raise ValueError("curves is empty; expected at least one class")
    shown = list(curves.items())[:MOST]
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.1 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (name, (precision, recall)) in zip(grid.flat, shown, strict=False):
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        axes.plot(recall, precision, color="tab:blue", alpha=0.35, linewidth=1)
        axes.plot(recall, envelope, color="tab:blue", linewidth=1.5)
        axes.set_title(name.replace("_", " "), fontsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_xlim(0, 1.02)
    grid[0, 0].set_ylim(0, 1.02)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    with atomic_write(picture) as file:
        figure.savefig(file, format="png")
