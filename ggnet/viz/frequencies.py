"""Plots of a dataset: how often its objects, verbs and HOIs occur."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ggnet.data.tools import Statistics
from ggnet.viz import style

MOST = 40  # names of a kind
NONE = 0.5  # where a count of 0 is drawn


def plot_frequencies(statistics: Statistics, picture: str | Path) -> None:
    """Counts of objects, verbs and HOIs by their rank, as one PNG.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(11, 11), dpi=110, layout="constrained")
    for axes, kind in zip(figure.subplots(3), ("objects", "verbs", "hois"), strict=True):
        counts = getattr(statistics, kind)
        order = np.argsort(-counts, kind="stable")
        shown = order if kind == "hois" else order[:MOST]
        ranks = np.arange(1, len(shown) + 1)
        # On a scale of logarithms a bar's length means nothing, and none has no place.
        some = counts[shown] > 0
        axes.plot(ranks[some], counts[shown][some], "o", color="tab:blue", markersize=4)
        axes.plot(ranks[~some], np.full((~some).sum(), NONE), "x", color="tab:red", markersize=5)
        axes.set_yscale("log")
        axes.set_ylim(NONE / 1.5, 2 * max(counts.max(initial=0), 1))
        if kind == "hois":
            axes.axhline(10, color=style.GROUPS["rare"], linestyle="--", linewidth=1)
            axes.text(len(order), 10, "rare below", ha="right", va="bottom", fontsize=8)
            axes.set_xlabel("rank of the HOI")
        else:
            names = [statistics.names(kind)[index].replace("_", " ") for index in shown]
            families = style.families("".join(names))
            axes.set_xticks(ranks, names, rotation=75, fontsize=7, family=families)
        title = f"{len(order)} {'HOIs' if kind == 'hois' else kind}"
        title += f", the {MOST} most frequent" if len(shown) < len(order) else ""
        if none := int((counts == 0).sum()):
            title += f"; {none} never occur (crosses)"
        axes.set_title(title, fontsize=11)
        axes.set_ylabel("boxes" if kind == "objects" else "pairs")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    style.save_figure(picture, figure)
