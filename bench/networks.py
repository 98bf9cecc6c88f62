"""Whole networks to measure: ours, the same one in eager PyTorch, and a batch for both."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggnet import ops, reference
from ggnet.config import ModelConfig
from ggnet.data.batch import Batch
from ggnet.data.dataset import collate
from ggnet.data.preprocess import InputImage
from ggnet.data.tables import hico_vocabulary
from ggnet.data.targets import build_targets
from ggnet.models import Backbone, GGNet, build_model
from ggnet.nn import ActPointAggregate, ModulatedDeformConv2dPack
from ggnet.reference.decode_hoi import _boxes, _offsets
from ggnet.triplets import Triplets

NETWORKS = {"ggnet": {"gaze_steps": 2}, "ppdm": {"aggregation": "interaction", "apm": False}}
DENSE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
DEFORMABLE = (ActPointAggregate, ModulatedDeformConv2dPack)
PAIRS = 5  # an image; HICO-DET's training images have 3.1
# Standard deviation of the offsets in cells, by the kernel's side. With more in the many deformable
# convolutions of DLA, rounding errors grow from one to the next until no two computations agree.
SPREAD = {3: 0.5, 5: 2.0}
K = 100
POINTS = r"points|conv_offset"  # modules that predict them


def network(name: str, backbone: str, images: Tensor) -> GGNet:
    """A network for HICO-DET with random weights, fit to be measured.

    A fresh network predicts regular grids, whose samples are all neighbours, and its statistics
    do not fit its activations. So a pass over `images` sets the statistics of its BatchNorms and
    the scale of each prediction of points: offsets that differ from cell to cell.
    """
    vocabulary = hico_vocabulary()
    config = ModelConfig(backbone=backbone, **NETWORKS[name])
    model = build_model(config, len(vocabulary.objects), len(vocabulary.verbs))
    model = model.to(memory_format=torch.channels_last)

    def spread(conv: nn.Conv2d, _, output: Tensor) -> Tensor:
        scale = SPREAD[conv.kernel_size[0]] / output.std()
        conv.weight.mul_(scale)
        return output * scale

    handles = []
    for module_name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, nn.Conv2d) and re.search(POINTS, module_name):
            nn.init.normal_(module.weight)
            handles.append(module.register_forward_hook(spread))
    with torch.no_grad():
        model.train()(images)
    for handle in handles:
        handle.remove()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model


def batch(count: int, size: int) -> Batch:
    """Random images with the targets of random people and objects, on the CPU."""
    rng = np.random.default_rng(0)
    vocabulary, grid = hico_vocabulary(), (size // Backbone.stride,) * 2
    samples = []
    for _ in range(count):
        corners = rng.uniform(0, size, (2 * PAIRS, 2, 2))
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1) / Backbone.stride
        hois = np.array(vocabulary.hois)[rng.integers(len(vocabulary.hois), size=PAIRS)]
        labels = np.concatenate([np.zeros(PAIRS, np.int64), hois[:, 1]])
        people = np.arange(PAIRS)
        pairs = np.column_stack([people, people + PAIRS, hois[:, 0]])
        targets = build_targets(boxes, labels, pairs, vocabulary.valid_pairs, grid)
        image = InputImage(rng.integers(0, 256, (size, size, 3), np.uint8), None, None)
        samples.append({"input": image, "seconds": {}, **targets})
    return collate(samples)


def valid_pairs() -> Tensor:
    """(V, num_objects) bool of HICO-DET, on the default device."""
    return torch.tensor(hico_vocabulary().valid_pairs)


def flops(model: nn.Module, images: Tensor) -> float:
    """Multiplications and additions of convolutions and linear layers in one forward, an image."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        # A transposed convolution spreads each input value, another gathers for each output.
        cells = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        total += 2 * cells.numel() * module.weight[0].numel()

    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, DENSE + DEFORMABLE)
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return total / len(images)


def cast_weights(model: GGNet, dtype: torch.dtype, deformable: torch.dtype) -> None:
    """Cast once what autocast would cast in each forward."""
    for module in model.modules():
        if isinstance(module, DENSE):
            module.to(dtype)
        elif isinstance(module, DEFORMABLE):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(deformable)


# -- the same network in eager PyTorch ------------------------------------------------------------


class Eager:
    """The operators that `ggnet.models` and `ggnet.nn` call, written out with PyTorch's own.

    Heatmaps are drawn when they are first asked for, outside of what is timed: published code
    draws them in the loader's processes. One object is for one batch.

    Args:
        deform_conv2d: torchvision's, or one with its signature.
        dtype: what it computes in under autocast. torchvision's default is float32, and it has no
            kernel for bfloat16.
    """

    def __init__(self, deform_conv2d: Callable, dtype: torch.dtype = torch.float32):
        self._deform_conv2d, self.dtype = deform_conv2d, dtype
        self._drawn: dict[tuple, Tensor] = {}

    def deform_conv2d(self, input, offset, weight, bias=None, *, mask=None, **geometry):
        device = input.device.type
        if not torch.is_autocast_enabled(device):
            return self._deform_conv2d(input, offset, weight, bias, mask=mask, **geometry)
        tensors = [t if t is None else t.to(self.dtype) for t in (input, offset, weight, bias)]
        mask = mask if mask is None else mask.to(self.dtype)
        with torch.autocast(device, enabled=False):
            output = self._deform_conv2d(*tensors, mask=mask, **geometry)
        return output.to(input.dtype)

    def actpoint_aggregate(self, features, points, weight, bias=None, base_offset=None, *, relu):
        side = weight.shape[-1]
        offset, logits = points.split([2 * side * side, side * side], dim=1)
        if base_offset is not None:
            offset = offset + base_offset
        mask = logits.sigmoid()
        output = self.deform_conv2d(features, offset, weight, bias, padding=side // 2, mask=mask)
        return output.relu() if relu else output

    @staticmethod
    def hna_loss(logits, target, **parameters):
        # 1 - eps is 1 in half precision
        return reference.hna_loss(logits.float(), target, **parameters)

    def draw_heatmaps(self, centers, radii, signs, shape, **factors):
        key = (tuple(shape), len(centers), *factors.items())
        if key not in self._drawn:
            points = (tensor.cpu() for tensor in (centers, radii, signs))
            with torch.device("cpu"):
                drawn = reference.draw_heatmaps(*points, shape, **factors)
            self._drawn[key] = drawn.to(centers.device)
        return self._drawn[key]

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Within it every network and loss calls these operators."""
        names = ("deform_conv2d", "actpoint_aggregate", "hna_loss", "draw_heatmaps")
        own = SimpleNamespace(**{name: getattr(self, name) for name in names})
        users = [
            module
            for name, module in list(sys.modules.items())
            if name.startswith(("ggnet.models", "ggnet.nn")) and vars(module).get("ops") is ops
        ]
        for module in users:
            module.ops = own
        try:
            yield
        finally:
            for module in users:
                module.ops = ops


def decode_images(outputs: dict[str, Tensor], valid_pairs: Tensor) -> Triplets:
    """`decode_hoi` as published code does it: peaks by max-pooling and topk, image by image,
    duplicates found on the host. The triplets are on the CPU."""
    images = [
        _decode_image({name: map[b : b + 1].float() for name, map in outputs.items()}, valid_pairs)
        for b in range(len(outputs["interaction"]))
    ]
    return Triplets(*map(torch.cat, zip(*images, strict=True)))


def _peaks(logits: Tensor) -> tuple[Tensor, ...]:
    _, _, height, width = logits.shape
    kept = F.max_pool2d(logits, 3, stride=1, padding=1) == logits
    logits, index = logits.masked_fill(~kept, float("-inf")).flatten(1).topk(K)
    cell = index % (height * width)
    return logits.sigmoid(), index // (height * width), cell // width, cell % width


def _decode_image(maps: dict[str, Tensor], valid_pairs: Tensor) -> Triplets:
    interactions, objects = _peaks(maps["interaction"]), _peaks(maps["heatmap"])
    humans = _peaks(maps["heatmap"][:, :1])
    _, verbs, ys, xs = interactions
    offsets = [_offsets(maps[f"{who}_offset"], verbs, ys, xs) for who in ("human", "object")]
    human, object_, scores = reference.match_points(
        interactions, humans, objects, *offsets, valid_pairs, allow_same=True
    )
    some_human, some_object = human[0].clamp(min=0), object_[0].clamp(min=0)
    found = Triplets(
        scores,
        verbs,
        _boxes(maps, humans)[:, some_human],
        _boxes(maps, objects)[:, some_object],
        humans[0][:, some_human],
        objects[0][:, some_object],
        objects[1][:, some_object],
        torch.stack([ys, xs], dim=2),
        human,
        object_,
    )
    found = Triplets(*(value.cpu() for value in found))
    best: dict[tuple, int] = {}
    parts = (found.verbs, found.human_index, found.object_index)
    keys = zip(*(part[0].tolist() for part in parts), strict=True)
    scores = found.scores[0].tolist()
    for index, key in enumerate(keys):
        other = best.setdefault(key, index)
        if other != index:
            worse = other if scores[index] > scores[other] else index
            best[key] = index + other - worse
            scores[worse] = 0.0
    found = found._replace(scores=torch.tensor([scores], device="cpu"))
    order = found.scores[0].argsort(descending=True, stable=True)
    return Triplets(*(value[:, order] for value in found))


def packed(triplets: Triplets) -> Tensor:
    """(B, K, 17) float32: all fields, for one copy. Indices are exact."""
    parts = [field.flatten(2) if field.dim() > 2 else field[..., None] for field in triplets]
    return torch.cat([part.float() for part in parts], dim=2)
