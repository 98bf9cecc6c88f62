"""GGNet's operators on compiled kernels, one file an operator.

Importing this package loads the compiled library; if that cannot be done it says what was found,
what was expected and which command repairs it.
"""

from ggnet.ops import _library

_library.load()
LIBRARY = _library.FOLDER / _library.LIBRARY  # for programs that load it themselves

# The modules below register with operators that exist only now.
from ggnet.ops._backend import (  # noqa: E402
    BACKENDS,
    BackendError,
    Resolution,
    resolve,
    use_backend,
)
from ggnet.ops._operators import OPERATORS  # noqa: E402
from ggnet.ops._torchvision import Replacement, replace_torchvision  # noqa: E402
from ggnet.ops.actpoint_aggregate import actpoint_aggregate  # noqa: E402
from ggnet.ops.decode_hoi import decode_detections, decode_hoi  # noqa: E402
from ggnet.ops.deform_conv2d import deform_conv2d  # noqa: E402
from ggnet.ops.draw_heatmaps import draw_heatmaps  # noqa: E402
from ggnet.ops.hna_loss import hna_loss  # noqa: E402
from ggnet.ops.match_points import match_points  # noqa: E402
from ggnet.ops.topk_peaks import topk_peaks  # noqa: E402
from ggnet.triplets import Detections, Triplets  # noqa: E402

__all__ = [
    "BACKENDS",
    "LIBRARY",
    "OPERATORS",
    "BackendError",
    "Detections",
    "Replacement",
    "Resolution",
    "Triplets",
    "actpoint_aggregate",
    "decode_detections",
    "decode_hoi",
    "deform_conv2d",
    "draw_heatmaps",
    "hna_loss",
    "match_points",
    "replace_torchvision",
    "resolve",
    "topk_peaks",
    "use_backend",
]
