"""What decoding gives for a batch, of fixed size, on the device, in cells of the feature map.

`ggnet.eval.predictions` holds the same for one image, without padding, in its own pixels.
"""

from typing import NamedTuple

from torch import Tensor


class Triplets(NamedTuple):
    """K triplets an image, highest score first; those with score 0 are padding."""

    scores: Tensor  # (B, K)
    verbs: Tensor  # (B, K) int64
    human_boxes: Tensor  # (B, K, 4) x1, y1, x2, y2 in cells
    object_boxes: Tensor  # (B, K, 4)
    human_scores: Tensor  # (B, K)
    object_scores: Tensor  # (B, K)
    object_labels: Tensor  # (B, K) int64
    interaction_yx: Tensor  # (B, K, 2) int64, cell of the interaction point
    human_index: Tensor  # (B, K) int64, rank among the image's k human peaks or the detections
    object_index: Tensor  # (B, K) int64, rank among the image's k object peaks or the detections


class Detections(NamedTuple):
    """N detected boxes an image; those with score 0 are padding."""

    boxes: Tensor  # (B, N, 4) x1, y1, x2, y2 in cells
    labels: Tensor  # (B, N) int64, 0 = person
    scores: Tensor  # (B, N)
