"""The definition of every operator in plain PyTorch, one file an operator.

Same signatures as `ggnet.ops`, any floating dtype, differentiable by autograd where the operator
is. Slow and memory-hungry on purpose: tests and benchmarks compare against these functions, and
nothing is ever dispatched to them.
"""

from ggnet.reference.actpoint_aggregate import actpoint_aggregate
from ggnet.reference.decode_hoi import decode_detections, decode_hoi
from ggnet.reference.deform_conv2d import deform_conv2d
from ggnet.reference.draw_heatmaps import draw_heatmaps
from ggnet.reference.hna_loss import hna_loss
from ggnet.reference.match_points import match_points
from ggnet.reference.topk_peaks import topk_peaks

__all__ = [
    "actpoint_aggregate",
    "decode_detections",
    "decode_hoi",
    "deform_conv2d",
    "draw_heatmaps",
    "hna_loss",
    "match_points",
    "topk_peaks",
]
