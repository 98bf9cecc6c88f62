"""Plots of a dataset: how often its objects, verbs and HOIs occur."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ggnet.data.tools import Statistics
from ggnet.io import atomic_write

MOST = 40  # bars of a kind


def plot_frequencies(statistics: Statistics, picture: str | Path) -> None:
    """Objects and verbs as bars, HOIs as a curve over their rank, as one PNG.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(11, 11), dpi=110, layout="constrained")
    for axes, kind in zip(figure.subplots(3), ("objects", "verbs", "hois"), strict=True):
        counts = getattr(statistics, kind)
        order = np.argsort(-counts, kind="stable")
        if kind == "hois":
            axes.plot(np.arange(1, len(order) + 1), counts[order], color="tab:blue")
            axes.axhline(10, color="tab:orange", linestyle="--", linewidth=1)
            axes.text(len(order), 10, "rare below", ha="right", va="bottom", fontsize=8)
            axes.set_xlabel("rank of the HOI")
        else:
            shown = order[:MOST]
            names = statistics.names(kind)
            labels = [names[index].replace("_", " ") for index in shown]
            axes.bar(labels, counts[shown], color="tab:blue")
            axes.tick_params("x", labelrotation=75, labelsize=7)
        left_out = f", the {MOST} most frequent" if kind != "hois" and len(order) > MOST else ""
        axes.set_title(f"{len(order)} {'HOIs' if kind == 'hois' else kind}{left_out}", fontsize=11)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 1.5 * max(counts.max(initial=0), 1))
        axes.set_ylabel("boxes" if kind == "objects" else "pairs")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(picture) as file:
        figure.savefig(file, format="png")
