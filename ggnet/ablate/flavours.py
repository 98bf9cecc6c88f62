"""Where the paper and its published code differ, each with its settings and source.

docs/paper.md shows this list as a table.
"""

from dataclasses import dataclass
from typing import Any

Settings = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One difference. A row's own settings go before these, but in the tables named."""

    what: str
    paper: Settings
    original: Settings
    source: str
    data: tuple[str, ...] = ("scenes", "vcoco", "hico")
    tables: tuple[str, ...] = ()


BENCHMARKS = ("vcoco", "hico")

DIFFERENCES = (
    Difference(
        "epochs",
        {"train.epochs": 120},
        {"train.epochs": 140},
        "the paper; the code's default",
        BENCHMARKS,
    ),
    Difference(
        "learning rate on V-COCO",
        {"train.lr": 1.5e-5},
        {"train.lr": 5.0e-5},
        "the paper; the V-COCO training script",
        ("vcoco",),
    ),
    Difference(
        "rate of the glance head, times the others'",
        {"train.glance_lr_multiplier": 1.0},
        {"train.glance_lr_multiplier": 10.0},
        "the paper does not mention it; parameters named `hm_rel` in the code",
        BENCHMARKS,
    ),
    Difference(
        "gaze steps on HICO-DET",
        {"model.gaze_steps": 2},
        {"model.gaze_steps": 1},
        "the paper describes two; the HICO-DET script trains `hourglassggnet1`",
        ("hico",),
        ("table5",),
    ),
    Difference(
        "widths of the gaze steps' targets",
        {"loss.target_style": "same"},
        {"loss.target_style": "split"},
        "the paper does not mention it; `--soft_gaussian` in the code",
    ),
    Difference(
        "offset losses of several stacks",
        {"loss.offset_reduction": "mean"},
        {"loss.offset_reduction": "sum"},
        "the paper gives one lambda_1; the code divides all terms but these by the stacks",
    ),
    Difference(
        "matching rule",
        {"eval.rule": "distance"},
        {"eval.rule": "product"},
        "paper Eq. 8; the code takes the argmax of s / ((|dx| + 1) (|dy| + 1))",
    ),
    Difference(
        "one detection as human and object of a triplet",
        {"eval.allow_same": False},
        {"eval.allow_same": True},
        "the paper matches a human with an object; the code does not compare the two",
    ),
    Difference(
        "whole-cell targets, radius formula, sampling of images",
        {"data.compat": "none"},
        {"data.compat": "original"},
        "the paper does not go into it; the code truncates boxes read as integers, divides the "
        "radius' roots by 2, and samples without the half pixel",
    ),
)
FLAVOURS = ("paper", "original")


def flavour_settings(flavour: str, data: str, table: str | None = None) -> Settings:
    """What "paper" or "original" sets for a dataset ("scenes", "vcoco", "hico"): for all rows, or
    with `table` what in that table goes before a row's own settings."""
    settings: Settings = {}
    for difference in DIFFERENCES:
        wanted = table in difference.tables if table else not difference.tables
        if data in difference.data and wanted:
            settings |= getattr(difference, flavour)
    return settings
