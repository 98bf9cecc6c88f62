"""A study's table as a picture: results by row, and paired differences with their intervals."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ggnet.viz import style

if TYPE_CHECKING:
    from ggnet.ablate.report import TableResult

_DPI = 130
_VERDICTS = {"higher": "tab:green", "lower": "tab:red", "cannot tell": "tab:gray"}
_PAPER = ("D", "s", "^", "v", "<", ">")  # marks of the paper's columns


def plot_table(result: "TableResult", picture: str | Path) -> None:
    """Every run and every row's mean; beside them each difference, its interval, the paper's.

    Raises:
        UserError: the picture cannot be written.
    """
    rows, comparisons = result.rows, result.comparisons
    height = 1.6 + 0.32 * max(len(rows), len(comparisons))
    figure = Figure(figsize=(13 if comparisons else 7, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, 2 if comparisons else 1, squeeze=False)[0]
    for y, row in enumerate(rows):
        scores = list(row.scores.values())
        axes[0].scatter(scores, [y] * len(scores), s=16, color="tab:blue", alpha=0.5)
        axes[0].plot([row.spread.mean] * 2, [y - 0.3, y + 0.3], color="black", linewidth=2)
    _finish(axes[0], [row.name for row in rows], f"{result.name}: every seed and the mean")
    axes[0].set_xlabel("mAP, %")
    if comparisons:
        _plot_differences(axes[1], result)
    style.save_figure(picture, figure)


def _plot_differences(axes, result: "TableResult") -> None:
    comparisons, columns = result.comparisons, result.table.columns
    axes.axvline(0, color="black", linewidth=0.8)
    for y, comparison in enumerate(comparisons):
        here = comparison.here
        color = _VERDICTS[here.verdict]
        if np.isfinite(here.low):
            axes.plot([here.low, here.high], [y, y], color=color, linewidth=3, alpha=0.6)
        axes.scatter([here.mean], [y], color=color, s=36, zorder=3)
        for name, value in comparison.paper.items():
            mark = _PAPER[columns.index(name) % len(_PAPER)]
            axes.scatter([value], [y], marker=mark, s=26, facecolors="none", edgecolors="black")
    for verdict, color in _VERDICTS.items():
        if any(comparison.here.verdict == verdict for comparison in comparisons):
            axes.plot([], [], color=color, linewidth=3, marker="o", label=f"here: {verdict}")
    for name, mark in zip(columns, _PAPER, strict=False):
        if any(name in comparison.paper for comparison in comparisons):
            look = {"facecolors": "none", "edgecolors": "black"}
            axes.scatter([], [], marker=mark, label=f"paper, {name}", **look)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    names = [f"{comparison.row} - {comparison.against}" for comparison in comparisons]
    _finish(axes, names, "paired differences, 95 % intervals")
    axes.set_xlabel("difference of mAP, points")


def _finish(axes, names: list[str], title: str) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(title, fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
