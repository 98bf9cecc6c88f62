"""Which gradients a backward of the deformable operators is asked for: csrc/actpoint/wanted.h."""

from collections.abc import Iterable
from enum import IntFlag


class Wanted(IntFlag):
    FEATURES = 1
    POINTS = 2  # or the offsets, where the mask is a tensor of its own
    WEIGHT = 4
    BIAS = 8
    MASK = 16


def wanted_bits(needed: Iterable[bool]) -> int:
    """The bits of what is needed, in the order above."""
    return sum(int(bit) for bit, need in zip(Wanted, needed, strict=False) if need)
