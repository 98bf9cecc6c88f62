"""From the output of GGNet (CVPR 2021) to human-object-interaction triplets."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ggnet.ops import _check
from ggnet.ops.match_points import Peaks, match_points
from ggnet.ops.topk_peaks import topk_peaks
from ggnet.triplets import Detections, Triplets

_DETECTION_MAPS = ("heatmap", "size", "center_frac")
_INTERACTION_MAPS = ("interaction", "human_offset", "object_offset")


def decode_detections(outputs: dict[str, Any], *, k: int = 100) -> Detections:
    """The k highest peaks of all object classes, as boxes. Not differentiable.

    Args:
        outputs: heatmap, size and center_frac; see `decode_hoi`.

    Returns:
        Detections, highest score first. `decode_hoi` also looks at the k highest persons.

    Raises:
        ValueError, TypeError, BackendError: as `decode_hoi`.
    """
    _check_maps(outputs, _DETECTION_MAPS)
    with torch.no_grad():
        peaks = topk_peaks(outputs["heatmap"], k)
        return Detections(_boxes(outputs, peaks), peaks[1], peaks[0])


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

    Shapes depend on those of the maps alone and nothing waits for the device, so a CUDA graph can
    capture it. Not differentiable.

    Args:
        outputs: eval-mode model output: heatmap (B, num_objects, H, W) and interaction
            (B, V, H, W) logits, class 0 being the person; size (B, 2, H, W) [w, h] and
            center_frac (B, 2, H, W) [x, y]; human_offset and object_offset (B, 2V, H, W) with
            channels 2v, 2v+1 = (x, y) of verb v, or (B, 2, H, W) for all verbs. In cells.
        valid_pairs: (V, num_objects) bool; None: every verb goes with every object.
        k: peaks of each kind and triplets of each image.
        rule: "product" or "distance", see `match_points`.
        detections: boxes of another detector, in place of heatmap, size and center_frac, which
            outputs may then lack. A box stands at the cell that holds its center.
        allow_same: one detection may be human and object of a triplet, as in the published code;
            else a person matches an object other than itself. The same detection is the same
            row of `detections`, or the same cell of the persons' heatmap: an object of another
            class at that cell has the same box, but is another detection.

    Returns:
        Triplets. Of triplets with the same human, object and verb only the first of the highest
        score keeps its score; the others, and interactions that match nothing, have score 0.

    Raises:
        ValueError: a map is missing, a shape, device or parameter does not fit.
        TypeError: a dtype that does not fit.
        BackendError: no kernel for this device, or not in the chosen backend.
    """
    external = detections is not None
    _check_maps(outputs, _INTERACTION_MAPS if external else _DETECTION_MAPS + _INTERACTION_MAPS)
    interaction = outputs["interaction"]
    if external:
        _check_detections(detections, interaction)
        if detections.scores.shape[1] == 0:  # any box will do for those that match nothing
            boxes, labels, scores = detections
            detections = Detections(
                F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1)), F.pad(scores, (0, 1))
            )
    if valid_pairs is not None:
        classes = valid_pairs.shape[-1] if external else outputs["heatmap"].shape[1]
        expected = (interaction.shape[1], classes)
        _check.shape("valid_pairs", valid_pairs, expected, "(V, num_objects)")
    with torch.no_grad():
        interactions = topk_peaks(interaction, k)
        if external:
            humans, objects = _candidates(detections, interactions[0].dtype)
            human_boxes = object_boxes = detections.boxes.to(interactions[0].dtype)
        else:
            objects = topk_peaks(outputs["heatmap"], k)
            humans = topk_peaks(outputs["heatmap"][:, :1], k)
            human_boxes, object_boxes = _boxes(outputs, humans), _boxes(outputs, objects)
        _, verbs, ys, xs = interactions
        human, object_, scores = match_points(
            interactions,
            humans,
            objects,
            _offsets(outputs["human_offset"], interactions),
            _offsets(outputs["object_offset"], interactions),
            valid_pairs,
            rule=rule,
            allow_same=allow_same,
            one_list=external,
        )
        scores = _without_duplicates(scores, human, object_, verbs)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        verbs, human, object_ = (_take(value, order) for value in (verbs, human, object_))
        # Triplets without a human or an object have index -1 and score 0; any box will do.
        some_human, some_object = human.clamp(min=0), object_.clamp(min=0)
        return Triplets(
            scores=scores,
            verbs=verbs,
            human_boxes=_take(human_boxes, some_human),
            object_boxes=_take(object_boxes, some_object),
            human_scores=_take(humans[0], some_human),
            object_scores=_take(objects[0], some_object),
            object_labels=_take(objects[1], some_object),
            interaction_yx=_take(torch.stack([ys, xs], dim=2), order),
            human_index=human,
            object_index=object_,
        )


def _check_maps(outputs: dict[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in outputs]
    if missing:
        raise ValueError(f"outputs lacks {', '.join(missing)}; expected {', '.join(names)}")
    first = outputs[names[0]]
    _check.tensor(names[0], first, 4)
    batch, channels, height, width = first.shape
    if names[0] == "heatmap" and channels < 1:
        raise ValueError("heatmap has no channels; expected one an object class, the person first")
    for name in names[1:]:
        _check.tensor(name, outputs[name], 4)
        channels, meaning = outputs[name].shape[1], "(B, V, H, W)"
        if name in ("size", "center_frac"):
            channels, meaning = 2, "(B, 2, H, W)"
        elif name.endswith("_offset") and channels != 2:
            channels, meaning = 2 * outputs["interaction"].shape[1], "(B, 2V, H, W)"
        _check.shape(name, outputs[name], (batch, channels, height, width), meaning)
    _check.same_device(names[0], first, **{name: outputs[name] for name in names[1:]})


def _check_detections(detections: Detections, interaction: Tensor) -> None:
    boxes, labels, scores = detections
    _check.tensor("detections.scores", scores, 2)
    expected = (interaction.shape[0], scores.shape[1])
    _check.shape("detections.scores", scores, expected, "(B, N)")
    _check.shape("detections.labels", labels, expected, "(B, N)")
    _check.dtype("detections.labels", labels, torch.int64)
    _check.shape("detections.boxes", boxes, (*expected, 4), "(B, N, 4)")
    _check.same_device(
        "interaction",
        interaction,
        **{f"detections.{name}": value for name, value in detections._asdict().items()},
    )


def _candidates(detections: Detections, dtype: torch.dtype) -> tuple[Peaks, Peaks]:
    """The persons among external boxes (others score 0), and all boxes, as peaks."""
    boxes, labels, scores = detections
    x, y = ((boxes[..., :2] + boxes[..., 2:]) / 2).floor().long().unbind(dim=2)
    scores = scores.to(dtype)
    return (scores.masked_fill(labels != 0, 0), labels, y, x), (scores, labels, y, x)


def _without_duplicates(scores: Tensor, human: Tensor, object_: Tensor, verbs: Tensor) -> Tensor:
    """0 for every triplet that has the human, object and verb of a better or earlier one."""
    same = torch.ones((), dtype=torch.bool, device=scores.device)
    for value in (human, object_, verbs):
        same = same & (value[:, :, None] == value[:, None, :])
    mine, other = scores[:, :, None], scores[:, None, :]
    rank = torch.arange(scores.shape[1], device=scores.device)
    earlier = rank[None, :] < rank[:, None]
    beaten = same & ((other > mine) | ((other == mine) & earlier))
    return scores.masked_fill(beaten.any(dim=2), 0)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values[b, index[b, i]] for (B, N) or (B, N, D) values."""
    if values.dim() == 3:
        index = index[:, :, None].expand(-1, -1, values.shape[2])
    return values.gather(1, index)


def _at(map: Tensor, channels: Tensor | int, peaks: Peaks) -> Tensor:
    """(B, K) values of a map at the peaks, of the dtype of their scores."""
    scores, _, ys, xs = peaks
    batch = torch.arange(map.shape[0], device=map.device)[:, None]
    return map[batch, channels, ys, xs].to(scores.dtype)


def _offsets(map: Tensor, interactions: Peaks) -> Tensor:
    """(B, K, 2) offsets (y, x) of each interaction's verb at its point."""
    first = 2 * interactions[1] if map.shape[1] > 2 else 0
    return torch.stack([_at(map, first + 1, interactions), _at(map, first, interactions)], dim=2)


def _boxes(maps: dict[str, Tensor], peaks: Peaks) -> Tensor:
    """(B, K, 4) boxes around the peaks, x1, y1, x2, y2 in cells."""
    _, _, ys, xs = peaks
    x = xs + _at(maps["center_frac"], 0, peaks)
    y = ys + _at(maps["center_frac"], 1, peaks)
    half_w, half_h = (_at(maps["size"], channel, peaks) / 2 for channel in (0, 1))
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=2)
