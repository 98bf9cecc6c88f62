"""Modules around the operators, and the training loss."""

from ggnet.nn.actpoint import ActPointAggregate
from ggnet.nn.deform import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2dPack
from ggnet.nn.loss import GGNetLoss

__all__ = [
    "ActPointAggregate",
    "DeformConv2d",
    "DeformConv2dPack",
    "GGNetLoss",
    "ModulatedDeformConv2dPack",
]
