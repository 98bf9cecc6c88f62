"""From the output of GGNet (CVPR 2021) to human-object-interaction triplets."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ggnet.reference.match_points import match_points
from ggnet.reference.topk_peaks import topk_peaks
from ggnet.triplets import Detections, Triplets


def decode_detections(outputs: dict[str, Any], *, k: int = 100) -> Detections:
    """The k highest peaks of all object classes, as boxes.

    Args:
        outputs: heatmap, size and center_frac; see `decode_hoi`.
    """
    maps = _floats({name: outputs[name] for name in _DETECTION_MAPS})
    peaks = topk_peaks(maps["heatmap"], k)
    return Detections(_boxes(maps, peaks), peaks[1], peaks[0])


def decode_hoi(
    outputs: dict[str, Any],
    valid_pairs: Tensor | None = None,
    *,
    k: int = 100,
    rule: str = "product",
    detections: Detections | None = None,
    allow_same: bool = False,
) -> Triplets:
    """Peaks of objects, humans and interactions, matched into triplets.

    Args:
        outputs: eval-mode model output: heatmap (B, num_objects, H, W) and interaction
            (B, V, H, W) logits, class 0 being the person; size (B, 2, H, W) [w, h] and
            center_frac (B, 2, H, W) [x, y]; human_offset and object_offset (B, 2V, H, W) with
            channels 2v, 2v+1 = (x, y) of verb v, or (B, 2, H, W) for all verbs.
        valid_pairs: (V, num_objects) bool.
        k: peaks of each kind and triplets of each image.
        detections: another detector's boxes, in place of heatmap, size and center_frac.
        allow_same: one detection may be human and object of a triplet, as in the published code.

    Returns:
        Triplets. Of triplets with the same human, object and verb only the first of the highest
        score keeps its score; the others, and interactions that match nothing, have score 0.
    """
    names = _INTERACTION_MAPS if detections is not None else _DETECTION_MAPS + _INTERACTION_MAPS
    maps = _floats({name: outputs[name] for name in names})

    def decode(part: slice) -> Triplets:
        found = None if detections is None else Detections(*(value[part] for value in detections))
        mine = {name: map[part] for name, map in maps.items()}
        return _decode_image(mine, valid_pairs, k, rule, found, allow_same)

    images = [decode(slice(b, b + 1)) for b in range(maps["interaction"].shape[0])]
    if not images:
        return decode(slice(None))
    return Triplets(*(torch.cat(field) for field in zip(*images, strict=True)))


_DETECTION_MAPS = ("heatmap", "size", "center_frac")
_INTERACTION_MAPS = ("interaction", "human_offset", "object_offset")


def _floats(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: map if map.dtype == torch.float64 else map.float() for name, map in maps.items()}


def _decode_image(
    maps: dict[str, Tensor],
    valid_pairs: Tensor | None,
    k: int,
    rule: str,
    detections: Detections | None,
    allow_same: bool,
) -> Triplets:
    interactions = topk_peaks(maps["interaction"], k)
    if detections is None:
        objects = topk_peaks(maps["heatmap"], k)
        humans = topk_peaks(maps["heatmap"][:, :1], k)
        human_boxes, object_boxes = _boxes(maps, humans), _boxes(maps, objects)
    else:
        if not detections.scores.shape[1]:  # any box will do for those that match nothing
            boxes, labels, scores = detections
            detections = Detections(
                F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1)), F.pad(scores, (0, 1))
            )
        object_boxes, labels, scores = detections
        human_boxes, scores = object_boxes, scores.to(interactions[0].dtype)
        xs, ys = ((object_boxes[..., :2] + object_boxes[..., 2:]) / 2).floor().long().unbind(2)
        objects = scores, labels, ys, xs
        humans = torch.where(labels == 0, scores, 0), labels, ys, xs
    _, verbs, ys, xs = interactions
    human, object_, scores = match_points(
        interactions,
        humans,
        objects,
        _offsets(maps["human_offset"], verbs, ys, xs),
        _offsets(maps["object_offset"], verbs, ys, xs),
        valid_pairs,
        rule=rule,
        allow_same=allow_same,
        one_list=detections is not None,
    )
    scores = scores.clone()
    for b in range(scores.shape[0]):
        best: dict[tuple[int, ...], int] = {}
        for i in range(k):
            key = (int(human[b, i]), int(object_[b, i]), int(verbs[b, i]))
            if key in best and scores[b, i] > scores[b, best[key]]:
                scores[b, best[key]] = 0
                best[key] = i
            elif key in best:
                scores[b, i] = 0
            else:
                best[key] = i
    order = scores.argsort(dim=1, descending=True, stable=True)

    def ranked(value: Tensor) -> Tensor:
        return value.gather(1, order.view(*order.shape, *[1] * (value.dim() - 2)).expand_as(value))

    def of(index: Tensor, value: Tensor) -> Tensor:
        index = index.clamp(min=0)
        return value.gather(
            1, index.view(*index.shape, *[1] * (value.dim() - 2)).expand(-1, -1, *value.shape[2:])
        )

    return Triplets(
        ranked(scores),
        ranked(verbs),
        ranked(of(human, human_boxes)),
        ranked(of(object_, object_boxes)),
        ranked(of(human, humans[0])),
        ranked(of(object_, objects[0])),
        ranked(of(object_, objects[1])),
        ranked(torch.stack([ys, xs], dim=2)),
        ranked(human),
        ranked(object_),
    )


def _at(map: Tensor, channels: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """map[b, channels[b, i], ys[b, i], xs[b, i]] for (B, K) indices."""
    batch = torch.arange(map.shape[0], device=map.device)[:, None]
    return map[batch, channels, ys, xs]


def _offsets(map: Tensor, verbs: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """(B, K, 2) offsets (y, x) at the interaction points."""
    first = 2 * verbs if map.shape[1] > 2 else torch.zeros_like(verbs)
    return torch.stack([_at(map, first + 1, ys, xs), _at(map, first, ys, xs)], dim=2)


def _boxes(maps: dict[str, Tensor], peaks: tuple[Tensor, ...]) -> Tensor:
    """(B, K, 4) boxes around the peaks, x1, y1, x2, y2 in cells."""
    _, _, ys, xs = peaks
    zero, one = torch.zeros_like(ys), torch.ones_like(ys)
    x = xs + _at(maps["center_frac"], zero, ys, xs)
    y = ys + _at(maps["center_frac"], one, ys, xs)
    half_w = _at(maps["size"], zero, ys, xs) / 2
    half_h = _at(maps["size"], one, ys, xs) / 2
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=2)
