"""Precision over recall of one class."""

from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """By falling score, as fractions."""

    precision: np.ndarray  # (n,)
    recall: np.ndarray  # (n,)
    ap: float  # percent
    positives: int  # annotated
