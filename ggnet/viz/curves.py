"""Plots of a run: losses and AP over epochs, AP of each HOI against its training instances."""

import csv
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ggnet.errors import UserError, reader
from ggnet.eval.hico import HoiAP
from ggnet.viz import style

NOT_LOSSES = {"epoch", "step", "lr", "images_per_second", "data_wait", "seconds"}
_METRIC = "mAP"  # the prefix of a metric's column
_DPI = 130
_NAMED = 6  # HOIs named at either end


def plot_curves(results: str | Path, picture: str | Path) -> None:
    """Losses, AP, learning rate and speed of a run, from its results.csv, as one PNG.

    Columns may have empty cells, as AP has in epochs without evaluation; columns without any
    number are left out.

    Raises:
        UserError: the file is missing, has no rows, or holds something that is no number.
    """
    columns = read_results(results)
    epochs = columns["epoch"]
    metrics = {name: y for name, y in columns.items() if name.startswith(_METRIC)}
    losses = {n: y for n, y in columns.items() if n not in NOT_LOSSES and n not in metrics}

    figure = Figure(figsize=(11, 6.5 if metrics else 4), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(2 if metrics else 1, 4)
    axes = figure.add_subplot(grid[0, :3])
    for name, y in losses.items():
        total = name == "total"
        look = {"color": "black", "linewidth": 2.2, "zorder": 3} if total else {"linewidth": 1.3}
        axes.plot(epochs, y, label=name.replace("_", " "), **_marked(y), **look)
    axes.set_yscale("log")
    _finish(axes, "Training losses", "epoch", "mean of the epoch\n(terms before weighting)")

    axes = figure.add_subplot(grid[0, 3])
    axes.plot(epochs, columns["lr"], color="tab:purple", **_marked(epochs))
    _finish(axes, "Learning rate", "epoch", "", legend=False)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

    if metrics:
        axes = figure.add_subplot(grid[1, :3])
        for name, y in metrics.items():
            group = name.removeprefix(_METRIC).strip("_").replace("_", " ")
            look = {"color": style.GROUPS.get(group), "linewidth": 1.3 if group else 2.2}
            there = np.isfinite(y)
            label = group or "all HOIs"
            axes.plot(epochs[there], y[there], marker="o", markersize=4, label=label, **look)
        best = np.nanargmax(metrics[_METRIC]) if _METRIC in metrics else None
        title = "Average precision, %"
        if best is not None:
            title += f" (best {metrics[_METRIC][best]:.1f} at epoch {epochs[best]:.0f})"
        _finish(axes, title, "epoch", "mAP")
        axes.set_ylim(0, None)
        axes.set_xlim(figure.axes[0].get_xlim())

    speed = columns.get("images_per_second")
    if speed is not None and metrics:
        axes = figure.add_subplot(grid[1, 3])
        axes.plot(epochs, speed, color="tab:green", **_marked(speed))
        _finish(axes, "Images/s", "epoch", "", legend=False)
        axes.set_ylim(0, None)
    style.save_figure(picture, figure)


def plot_hoi_ap(found: HoiAP, train_counts: np.ndarray, picture: str | Path) -> None:
    """AP of each HOI against its number of training instances, as one PNG: the long tail.

    Args:
        train_counts: (HOIs,) as `hoi_counts` gives them.
    """
    there = ~np.isnan(found.ap)
    counts, ap, hois = train_counts[there], found.ap[there], np.flatnonzero(there)
    figure = Figure(figsize=(9, 5), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)
    rare = found.rare[there]
    for mask, group in ((~rare, "non-rare"), (rare, "rare")):
        if mask.any():
            label = f"{group if rare.any() else 'HOI'} ({mask.sum()})"
            color = style.GROUPS[group]
            axes.scatter(counts[mask], ap[mask], s=22, color=color, alpha=0.65, label=label)
    x, y = _running_mean(counts, ap)
    axes.plot(x, y, color="black", linewidth=2, label="mean of neighbors")
    axes.set_ylim(-3, 103)
    title = f"AP of each HOI ({found.setting.replace('-', ' ')}), mAP {found.mean:.2f}"
    # Names beside the plot: at its points, those of the best and the worst would cover each other.
    order = ap.argsort(kind="stable")
    worst, best = order[:_NAMED], order[::-1][: min(_NAMED, max(len(order) - _NAMED, 0))]
    for rows, what, color in ((best, "best", "tab:green"), (worst, "worst", "tab:red")):
        if len(rows):
            ring = {"facecolors": "none", "edgecolors": color, "s": 60, "linewidths": 1.2}
            axes.scatter(counts[rows], ap[rows], label=what, **ring)
    _finish(axes, title, "training instances", "AP, %")
    lines = []
    for rows, what in ((best, "best"), (worst, "worst")):
        names = [f"{ap[i]:5.1f}  {found.names[hois[i]]}".replace("_", " ") for i in rows]
        lines += [f"{what}, AP in %:", *names, ""] if len(rows) else []
    text = "\n".join(lines)
    axes.annotate(
        text,
        (1.02, 0),
        xycoords="axes fraction",
        verticalalignment="bottom",
        fontsize=8,
        family=style.families(text),
    )
    style.save_figure(picture, figure)


def _running_mean(counts: np.ndarray, ap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over groups of HOIs of similar frequency, about sqrt(n) in each."""
    order = counts.argsort(kind="stable")
    groups = np.array_split(order, max(1, math.isqrt(len(order))))
    groups = [group for group in groups if len(group)]
    return (
        np.array([counts[group].mean() for group in groups]),
        np.array([ap[group].mean() for group in groups]),
    )


@reader("a run's results.csv")
def read_results(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a run's results.csv as float64; empty cells are NaN, wholly empty columns are
    left out.

    Raises:
        UserError: the file is missing, has no rows, or holds something that is no number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of numbers with a header ({error})") from None
    columns = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    if not {"epoch", "lr"} <= columns.keys():
        raise UserError(f"{path} lacks the columns epoch and lr; expected a run's results.csv")
    return columns


def _marked(values: np.ndarray) -> dict:
    """A line through a single point would be invisible."""
    return {"marker": "o", "markersize": 3} if len(values) < 15 else {}


def _finish(axes, title: str, x: str, y: str, legend: bool = True) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if legend:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
