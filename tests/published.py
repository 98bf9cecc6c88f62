"""Names and shapes of the published networks' tensors, and what those networks compute.

Facts of the original code (GGNet, PPDM, CenterNet), written down anew: every function reads a flat
dict of tensors by the original names.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ggnet import reference

Shapes = dict[str, tuple[int, ...]]
HOURGLASS = ((256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4))
DLA = (16, 32, 64, 128, 256, 512)


def fill(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random values; offsets of a few cells, variances positive."""
    random = torch.Generator().manual_seed(seed)
    values = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            values[name] = torch.tensor(7)
            continue
        value = torch.randn(shape, generator=random, dtype=dtype)
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) == 4:
            value = value / math.sqrt(math.prod(shape[1:]))
        else:
            value = 0.3 * value + (1.0 if name.endswith((".weight",)) else 0.0)
        values[name] = value
    return values


# -- names and shapes -----------------------------------------------------------------------------


def conv(name: str, out: int, into: int, kernel: int, bias: bool = True) -> Shapes:
    shapes = {f"{name}.weight": (out, into, kernel, kernel)}
    return shapes | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def block(name: str, into: int, out: int) -> Shapes:
    return (
        conv(f"{name}.conv1", out, into, 3, bias=False)
        | norm(f"{name}.bn1", out)
        | conv(f"{name}.conv2", out, out, 3, bias=False)
        | norm(f"{name}.bn2", out)
    )


def projection(name: str, into: int, out: int) -> Shapes:
    return conv(f"{name}.0", out, into, 1, bias=False) | norm(f"{name}.1", out)


def residual(name: str, into: int, out: int, stride: int = 1) -> Shapes:
    shapes = block(name, into, out)
    return shapes | (projection(f"{name}.skip", into, out) if stride > 1 or into != out else {})


def convolution(name: str, into: int, out: int, kernel: int) -> Shapes:
    return conv(f"{name}.conv", out, into, kernel, bias=False) | norm(f"{name}.bn", out)


def hourglass_module(name: str, channels: tuple[int, ...], blocks: tuple[int, ...]) -> Shapes:
    outer, inner, count = channels[0], channels[1], blocks[0]
    shapes: Shapes = {}
    for i in range(count):
        shapes |= residual(f"{name}.up1.{i}", outer, outer)
        shapes |= residual(f"{name}.low1.{i}", inner if i else outer, inner, 1 if i else 2)
        shapes |= residual(f"{name}.low3.{i}", inner, outer if i == count - 1 else inner)
    if len(channels) > 2:
        return shapes | hourglass_module(f"{name}.low2", channels[1:], blocks[1:])
    for i in range(blocks[1]):
        shapes |= residual(f"{name}.low2.{i}", inner, inner)
    return shapes


def hourglass(
    heads: dict[str, int], gaze: int = 0, channels=HOURGLASS[0], blocks=HOURGLASS[1]
) -> Shapes:
    """CenterNet's or PPDM's hourglass; GGNet's with `gaze` steps."""
    width = channels[0]
    shapes = convolution("pre.0", 3, width // 2, 7) | residual("pre.1", width // 2, width, 2)
    shapes |= residual("inters.0", width, width)
    for name in ("inters_", "cnvs_"):
        shapes |= projection(f"{name}.0", width, width)
    for s in range(2):
        shapes |= hourglass_module(f"kps.{s}", channels, blocks)
        shapes |= convolution(f"cnvs.{s}", width, width, 3)
        for head, out in heads.items():
            shapes |= conv(f"{head}.{s}.0.conv", width, width, 3)
            shapes |= conv(f"{head}.{s}.1", out, width, 1)
        for step in range(gaze):
            number = str(step + 1) if gaze > 1 else ""
            shapes |= conv(f"hm_dcn{number}.{s}.conv", width, width, 3)
            shapes |= conv(f"refine_dcn{number}.{s}", width, width, 5)
            shapes |= conv(f"refine_dcn{number}.{s}.conv_offset_mask", 75, width, 5)
            verbs, head = heads["hm_rel"], f"refine_head{number}.{s}"
            if step < gaze - 1:
                shapes |= conv(f"{head}.0", verbs, width, 1)
            else:
                hidden = int(math.sqrt(width / verbs) * verbs)
                shapes |= conv(f"{head}.0.conv", hidden, width, 1)
                shapes |= conv(f"{head}.1", verbs, hidden, 1)
    return shapes


def tree(name: str, levels: int, into: int, out: int, extra: int) -> Shapes:
    """`extra`: channels that the last root reads beside its two blocks'."""
    shapes = {} if into == out else projection(f"{name}.project", into, out)
    if levels == 1:
        shapes |= block(f"{name}.tree1", into, out) | block(f"{name}.tree2", out, out)
        return shapes | convolution(f"{name}.root", 2 * out + extra, out, 1)
    shapes |= tree(f"{name}.tree1", 1, into, out, 0)
    return shapes | tree(f"{name}.tree2", 1, out, out, extra + out)


def dla_base() -> Shapes:
    """DLA-34 as trained on ImageNet."""
    shapes = projection("base_layer", 3, DLA[0])
    shapes["base_layer.0.weight"] = (DLA[0], 3, 7, 7)
    for level, (into, out) in enumerate(((DLA[0], DLA[0]), (DLA[0], DLA[1]))):
        shapes |= conv(f"level{level}.0", out, into, 3, bias=False) | norm(f"level{level}.1", out)
    for level, trees in ((2, 1), (3, 2), (4, 2), (5, 1)):
        into, out = DLA[level - 1], DLA[level]
        shapes |= tree(f"level{level}", trees, into, out, 0 if level == 2 else into)
    return shapes | conv("fc", 1000, DLA[5], 1)


def aggregation(name: str, out: int, channels: tuple[int, ...], factors: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    for i, (into, factor) in enumerate(zip(channels, factors, strict=True), 1):
        for node, width in ((f"{name}.proj_{i}", into), (f"{name}.node_{i}", out)):
            shapes |= conv(f"{node}.conv", out, width, 3)
            shapes |= conv(f"{node}.conv.conv_offset_mask", 27, width, 3)
            shapes |= norm(f"{node}.actf.0", out)
        shapes[f"{name}.up_{i}.weight"] = (out, 1, 2 * factor, 2 * factor)
    return shapes


def dla(heads: dict[str, int]) -> Shapes:
    """CenterNet's or PPDM's DLA-34."""
    shapes = {f"base.{name}": shape for name, shape in dla_base().items()}
    shapes |= aggregation("dla_up.ida_0", 256, (512,), (2,))
    shapes |= aggregation("dla_up.ida_1", 128, (256, 256), (2, 2))
    shapes |= aggregation("dla_up.ida_2", 64, (128, 128, 128), (2, 2, 2))
    shapes |= aggregation("ida_up", 64, (128, 256), (2, 4))
    for head, out in heads.items():
        shapes |= conv(f"{head}.0", 256, 64, 3) | conv(f"{head}.2", out, 256, 1)
    return shapes


# depth -> whether blocks are bottlenecks, and how many at each stride
RESNETS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


def resnet(depth: int) -> Shapes:
    """torchvision's ResNet, as trained on ImageNet."""
    bottleneck, counts = RESNETS[depth]
    shapes = conv("conv1", 64, 3, 7, bias=False) | norm("bn1", 64)
    into = 64
    for level, count in enumerate(counts):
        middle = 64 * 2**level
        out = 4 * middle if bottleneck else middle
        for i in range(count):
            name = f"layer{level + 1}.{i}"
            if bottleneck:
                for part, sizes in enumerate(((middle, into, 1), (middle, middle, 3)), 1):
                    shapes |= conv(f"{name}.conv{part}", *sizes, bias=False)
                    shapes |= norm(f"{name}.bn{part}", middle)
                shapes |= conv(f"{name}.conv3", out, middle, 1, bias=False)
                shapes |= norm(f"{name}.bn3", out)
            else:
                shapes |= block(name, into, out)
            if i == 0 and into != out:
                shapes |= projection(f"{name}.downsample", into, out)
            into = out
    return shapes | {"fc.weight": (1000, into), "fc.bias": (1000,)}


def resnet_dcn(depth: int, heads: dict[str, int]) -> Shapes:
    """CenterNet's or PPDM's ResNet with deconvolutions."""
    shapes = {name: shape for name, shape in resnet(depth).items() if not name.startswith("fc")}
    into = 2048 if RESNETS[depth][0] else 512
    for stage, out in enumerate((256, 128, 64)):
        first = f"deconv_layers.{6 * stage}"
        shapes |= conv(first, out, into, 3) | conv(f"{first}.conv_offset_mask", 27, into, 3)
        shapes |= norm(f"deconv_layers.{6 * stage + 1}", out)
        shapes |= conv(f"deconv_layers.{6 * stage + 3}", out, out, 4, bias=False)
        shapes |= norm(f"deconv_layers.{6 * stage + 4}", out)
        into = out
    for head, out in heads.items():
        shapes |= conv(f"{head}.0", 64, 64, 3) | conv(f"{head}.2", out, 64, 1)
    return shapes


# -- what the networks compute --------------------------------------------------------------------


class Net:
    """Layers that read their tensors from a published state dict."""

    def __init__(self, state: dict[str, Tensor]):
        self.state = state

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in parts))

    def convolution(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = self.conv(x, f"{name}.conv", stride)
        return F.relu(self.norm(x, f"{name}.bn") if f"{name}.bn.weight" in self.state else x)

    def projection(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        if f"{name}.0.weight" not in self.state:
            return x
        return self.norm(self.conv(x, f"{name}.0", stride), f"{name}.1")

    def block(self, x: Tensor, shortcut: Tensor, name: str, stride: int = 1) -> Tensor:
        y = F.relu(self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
        return F.relu(self.norm(self.conv(y, f"{name}.conv2"), f"{name}.bn2") + shortcut)

    def residual(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return self.block(x, self.projection(x, f"{name}.skip", stride), name, stride)

    def residuals(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        i = 0
        while f"{name}.{i}.conv1.weight" in self.state:
            x = self.residual(x, f"{name}.{i}", 1 if i else stride)
            i += 1
        return x

    def hourglass_module(self, x: Tensor, name: str) -> Tensor:
        low = self.residuals(x, f"{name}.low1", stride=2)
        deeper = f"{name}.low2.up1.0.conv1.weight" in self.state
        low = (self.hourglass_module if deeper else self.residuals)(low, f"{name}.low2")
        low = self.residuals(low, f"{name}.low3")
        return self.residuals(x, f"{name}.up1") + low.repeat_interleave(2, 2).repeat_interleave(
            2, 3
        )

    def hourglass(self, image: Tensor) -> list[Tensor]:
        x = self.residual(self.convolution(image, "pre.0", 2), "pre.1", 2)
        features = []
        for s in range(2):
            features.append(self.convolution(self.hourglass_module(x, f"kps.{s}"), f"cnvs.{s}"))
            if s == 0:
                x = self.projection(x, "inters_.0") + self.projection(features[0], "cnvs_.0")
                x = self.residual(F.relu(x), "inters.0")
        return features

    def head(self, x: Tensor, name: str) -> Tensor:
        """Hidden layer and output of the hourglass networks' heads."""
        return self.conv(self.convolution(x, f"{name}.0"), f"{name}.1")

    def ggnet(self, image: Tensor, gaze: int) -> dict[str, Tensor]:
        """The last stack's outputs of the hourglass networks, by the original names."""
        s, feature = 1, self.hourglass(image)[1]
        out = {name: self.head(feature, f"{name}.{s}") for name in ("hm", "wh", "reg", "hm_rel")}
        glance = self.convolution(feature, f"hm_rel.{s}.0")
        for name in ("sub_offset", "obj_offset"):
            out[name] = self.head(glance if gaze else feature, f"{name}.{s}")
        offset, gazed = 0.0, glance
        for step in range(gaze):
            number = str(step + 1) if gaze > 1 else ""
            name = f"refine_dcn{number}.{s}"
            source = self.convolution(feature, f"hm_dcn{number}.{s}")
            gazed, offset = self.deform(source, gazed, name, offset)
            gazed = F.relu(gazed)
            head = f"refine_head{number}.{s}"
            last = step == gaze - 1
            out[f"gaze{step + 1}"] = (
                self.head(gazed, head) if last else self.conv(gazed, f"{head}.0")
            )
        return out

    def deform(
        self, x: Tensor, guide: Tensor, name: str, base: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor]:
        first, second, mask = self.conv(guide, f"{name}.conv_offset_mask").chunk(3, dim=1)
        offset = torch.cat([first, second], dim=1) + base
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        padding = weight.shape[-1] // 2
        x = reference.deform_conv2d(x, offset, weight, bias, padding=padding, mask=mask.sigmoid())
        return x, offset

    def tree(
        self, x: Tensor, name: str, levels: int, stride: int, children: list[Tensor]
    ) -> Tensor:
        pooled = F.max_pool2d(x, stride)
        if levels == 2:
            first = self.tree(x, f"{name}.tree1", 1, stride, [])
            return self.tree(first, f"{name}.tree2", 1, 1, [pooled, first])
        first = self.block(x, self.projection(pooled, f"{name}.project"), f"{name}.tree1", stride)
        second = self.block(first, first, f"{name}.tree2")
        if name.endswith("level5"):
            children = [pooled]
        return self.convolution(torch.cat([second, first, *children], dim=1), f"{name}.root")

    def aggregate(self, maps: list[Tensor], name: str, factors: list[int]) -> list[Tensor]:
        out = maps[:1]
        for i, (x, factor) in enumerate(zip(maps[1:], factors, strict=True), 1):
            up = self.state[f"{name}.up_{i}.weight"]
            x = self.deform_node(x, f"{name}.proj_{i}")
            x = F.conv_transpose2d(x, up, None, factor, factor // 2, groups=len(up))
            out.append(self.deform_node(x + out[-1], f"{name}.node_{i}"))
        return out

    def deform_node(self, x: Tensor, name: str) -> Tensor:
        return F.relu(self.norm(self.deform(x, x, f"{name}.conv")[0], f"{name}.actf.0"))

    def dla(self, image: Tensor) -> dict[str, Tensor]:
        """The outputs of PPDM's DLA-34, by the original names."""
        x = F.relu(self.projection(image, "base.base_layer"))
        x = F.relu(self.projection(x, "base.level0"))
        x = F.relu(self.projection(x, "base.level1", stride=2))
        maps = []
        for level, levels in ((2, 1), (3, 2), (4, 2), (5, 1)):
            x = self.tree(x, f"base.level{level}", levels, 2, [])
            maps.append(x)
        last = []
        for i, start in enumerate((2, 1, 0)):
            maps[start:] = self.aggregate(maps[start:], f"dla_up.ida_{i}", [2] * (i + 1))
            last.insert(0, maps[-1])
        feature = self.aggregate(last, "ida_up", [2, 4])[-1]
        names = ("hm", "wh", "reg", "hm_rel", "sub_offset", "obj_offset")
        return {n: self.conv(F.relu(self.conv(feature, f"{n}.0")), f"{n}.2") for n in names}

    def resnet_block(self, x: Tensor, name: str, stride: int) -> Tensor:
        shortcut = self.projection(x, f"{name}.downsample", stride)
        if f"{name}.conv3.weight" not in self.state:
            return self.block(x, shortcut, name, stride)
        y = F.relu(self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1"))
        y = F.relu(self.norm(self.conv(y, f"{name}.conv2", stride), f"{name}.bn2"))
        return F.relu(self.norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3") + shortcut)

    def resnet_dcn(self, image: Tensor) -> dict[str, Tensor]:
        """The outputs of PPDM's ResNet with deconvolutions, by the original names."""
        x = F.relu(self.norm(self.conv(image, "conv1", 2), "bn1"))
        x = F.max_pool2d(x, 3, 2, 1)
        for level in range(1, 5):
            i = 0
            while f"layer{level}.{i}.conv1.weight" in self.state:
                x = self.resnet_block(x, f"layer{level}.{i}", 2 if level > 1 and i == 0 else 1)
                i += 1
        for first in (0, 6, 12):
            name = "deconv_layers."
            x = self.deform(x, x, f"{name}{first}")[0]
            x = F.relu(self.norm(x, f"{name}{first + 1}"))
            x = F.conv_transpose2d(x, self.state[f"{name}{first + 3}.weight"], None, 2, 1)
            x = F.relu(self.norm(x, f"{name}{first + 4}"))
        names = ("hm", "wh", "reg", "hm_rel", "sub_offset", "obj_offset")
        return {n: self.conv(F.relu(self.conv(x, f"{n}.0")), f"{n}.2") for n in names}
