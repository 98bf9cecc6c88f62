"""Modules around the operators, and the training loss."""

from ggnet.nn.actpoint import ActPointAggregate, DeformConv2d
from ggnet.nn.loss import GGNetLoss

__all__ = ["ActPointAggregate", "DeformConv2d", "GGNetLoss"]
