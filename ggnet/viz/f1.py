"""Precision, recall and F1 over the score that a triplet must have."""

from pathlib import Path

from matplotlib.figure import Figure

from ggnet.eval.f1 import F1Curve
from ggnet.viz import style


def plot_f1(curve: F1Curve, picture: str | Path) -> None:
    """The curve with its best threshold marked, as one PNG.

    Raises:
        ValueError: nothing was found, so there is no curve.
        UserError: the file cannot be written.
    """
    best = curve.best()
    if best is None:
        raise ValueError("no triplet is right, so there is no best F1")
    figure = Figure(figsize=(7.5, 4.5), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    lines = (
        ("F1", curve.f1, "black", 2.2),
        ("precision", curve.precision, "tab:blue", 1.3),
        ("recall", curve.recall, "tab:orange", 1.3),
    )
    for label, values, color, width in lines:
        axes.plot(curve.scores, values, label=label, color=color, linewidth=width)
    axes.axvline(best["threshold"], color="tab:green", linewidth=1, linestyle="--")
    axes.plot([best["threshold"]], [best["f1"]], "o", color="tab:green", markersize=6, zorder=4)
    axes.set_xscale("log")  # a score is a product of three
    axes.set_xlim(max(curve.scores.min(), 1e-4), 1)
    axes.set_ylim(0, 1.02)
    axes.set_title(
        f"best F1 {best['f1']:.2f} at a score of {best['threshold']:.3g}: precision "
        f"{best['precision']:.2f}, recall {best['recall']:.2f}",
        fontsize=11,
    )
    axes.set_xlabel("lowest score (the product of the interaction's, the human's, the object's)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    ticks = [t for t in (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1) if t >= axes.get_xlim()[0]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    style.save_figure(picture, figure)
