"""What is measured: for each operator its inputs, its work, and everybody who can do it.

A provider is a function that takes the inputs and returns a callable without arguments, the thing
that is timed; it raises `Missing` with a reason where it cannot run here.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ggnet import ops, reference


class Missing(Exception):
    """Why a provider cannot run."""


def by_triton(provider: Callable) -> Callable:
    """The same call with the operators' Triton kernels."""

    def on_triton(inputs):
        tensor = next(iter(inputs.tensors.values()))
        if not tensor.is_cuda:
            raise Missing("Triton's kernels want a GPU")
        try:
            with ops.use_backend("triton"):
                call = provider(inputs)
        except ops.BackendError as error:
            raise Missing(str(error)) from None

        def run():
            with ops.use_backend("triton"):
                return call()

        return run

    return on_triton


@dataclass
class Inputs:
    """Tensors of a case; `leaves` are those that get gradients."""

    tensors: dict[str, Tensor]
    leaves: list[str] = field(default_factory=list)
    stride: int = 1
    groups: int = 1
    offset_groups: int = 1

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


@dataclass
class Case:
    """An operator at a shape."""

    name: str
    shape: str  # as shown to the reader
    make: Callable[[torch.dtype], Inputs]
    providers: dict[str, Callable[[Inputs], Callable[[], Tensor]]]
    flops: float = 0.0  # of the forward; a backward does twice as many
    # Compulsory traffic of the forward, and of forward and backward, for a size of element.
    bytes: Callable[[int], float] = lambda element: 0.0
    full_bytes: Callable[[int], float] = lambda element: 0.0
    differentiable: bool = True


def _layout(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last)


def deformable(
    name: str,
    batch: int,
    channels: int,
    outputs: int,
    height: int,
    width: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    offset_groups: int = 1,
) -> Case:
    """`actpoint_aggregate` or `deform_conv2d`, offsets of a few pixels, padded to keep the size."""
    taps = kernel * kernel
    out = [(side - 1) // stride + 1 for side in (height, width)]
    points_of_cell = offset_groups * taps

    def make(dtype: torch.dtype) -> Inputs:
        points = torch.randn(batch, 3 * points_of_cell, *out)
        points[:, : 2 * points_of_cell] *= 2.0
        weight = torch.randn(outputs, channels // groups, kernel, kernel)
        tensors = {
            "features": _layout(torch.randn(batch, channels, height, width)),
            "points": points,
            "weight": weight * weight[0].numel() ** -0.5,
            "bias": torch.randn(outputs),
        }
        tensors = {k: v.to(dtype) for k, v in tensors.items()}
        inputs = Inputs(tensors, list(tensors), stride, groups, offset_groups)
        for leaf in inputs.leaves:
            inputs[leaf].requires_grad_()
        return inputs

    fused = name == "actpoint_aggregate"
    pad = kernel // 2

    steps = {"stride": stride, "padding": pad}

    def ggnet(i: Inputs):
        if fused:
            return lambda: ops.actpoint_aggregate(
                i["features"], i["points"], i["weight"], i["bias"], relu=True
            )
        offset, mask = _leaves(i)
        return lambda: ops.deform_conv2d(
            i["features"], offset, i["weight"], i["bias"], **steps, mask=mask
        )

    def torchvision(i: Inputs):
        try:
            from torchvision.ops import deform_conv2d
        except (ImportError, RuntimeError) as error:
            raise Missing(f"torchvision does not import: {error}") from None
        if i["features"].dtype == torch.bfloat16 and not i["features"].is_cuda:
            raise Missing("torchvision has no bfloat16 kernel on the CPU")
        if fused:

            def run():
                offset, mask = _parts(i)
                return deform_conv2d(
                    i["features"], offset, i["weight"], i["bias"], **steps, mask=mask
                ).relu()

            return run
        offset, mask = _leaves(i)
        return lambda: deform_conv2d(
            i["features"], offset, i["weight"], i["bias"], **steps, mask=mask
        )

    def dense(i: Inputs):
        def run():
            return F.conv2d(i["features"], i["weight"], i["bias"], **steps, groups=groups)

        return (lambda: run().relu()) if fused else run

    def eager(i: Inputs):
        if pixels * channels * taps > 2**27:
            raise Missing("its columns, and as much again several times, fill gigabytes")
        if fused:
            return lambda: reference.actpoint_aggregate(
                i["features"], i["points"], i["weight"], i["bias"], relu=True
            )
        offset, mask = (t.detach() for t in _parts(i))
        return lambda: reference.deform_conv2d(
            i["features"], offset, i["weight"], i["bias"], **steps, mask=mask
        )

    shape = f"{batch}x{channels}x{height}x{width}, {outputs} outputs, {taps} points"
    numbers = {"stride {}": stride, "{} groups": groups, "{} offset groups": offset_groups}
    shape += "".join(f", {text.format(n)}" for text, n in numbers.items() if n > 1)
    pixels = batch * out[0] * out[1]
    per_pixel = outputs + 3 * points_of_cell
    weights = channels // groups * outputs * taps
    return Case(
        name,
        shape,
        make,
        {
            "ggnet": ggnet,
            "triton": by_triton(ggnet),
            "dense conv2d": dense,
            "torchvision": torchvision,
            "mmcv": lambda i: _mmcv(i, pad, fused),
            "deformops": lambda i: _deformops(i, pad, fused),
            "openvino": lambda i: _openvino(i, pad),
            "onnxruntime": lambda i: _onnxruntime(i, pad),
            "torch eager": eager,
        },
        flops=2.0 * pixels * weights,
        bytes=lambda e: e * (batch * channels * height * width + pixels * per_pixel + weights),
    )


def _parts(i: Inputs) -> tuple[Tensor, Tensor]:
    """Offsets and masks."""
    count = i["points"].shape[1] // 3
    offset, logits = i["points"].split([2 * count, count], 1)
    return offset, logits.sigmoid()


def _leaves(i: Inputs) -> list[Tensor]:
    """Offsets and masks that get gradients where the features do."""
    parts = (t.detach().contiguous() for t in _parts(i))
    return [t.requires_grad_(i["features"].requires_grad) for t in parts]


def _mmcv(i: Inputs, pad: int, fused: bool):
    if not i["features"].is_cuda:
        raise Missing("mmcv is compared on a GPU only")
    try:
        from mmcv.ops import modulated_deform_conv2d
    except ImportError as error:
        raise Missing(f"pip install mmcv ({error})") from None

    def run():
        offset, mask = _parts(i)
        out = modulated_deform_conv2d(
            i["features"].contiguous(), offset.contiguous(), mask.contiguous(), i["weight"],
            i["bias"], i.stride, pad, 1, i.groups, i.offset_groups,
        )  # fmt: skip
        return out.relu() if fused else out

    return run


def _deformops(i: Inputs, pad: int, fused: bool):
    if not i["features"].is_cuda:
        raise Missing("deformops is compared on a GPU only")
    if (i.stride, i.groups, i.offset_groups) != (1, 1, 1):
        raise Missing("deformops is compared with stride 1 and one group only")
    try:
        from deformops.registry import conv
    except ImportError as error:
        raise Missing(f"pip install deformops ({error})") from None

    def run():
        offset, mask = (t.movedim(1, -1) for t in _parts(i))
        out = conv(
            i["features"].movedim(1, -1),
            offset.unflatten(-1, (1, -1, 2)).contiguous(),
            i["weight"],
            i["bias"],
            mask.unflatten(-1, (1, -1)).contiguous(),
            padding=pad,
        ).movedim(-1, 1)
        return out.relu() if fused else out

    return run


def _forward_only(inputs: Inputs, package: str) -> None:
    if inputs["features"].is_cuda:
        raise Missing(f"{package} is compared on the CPU only")
    if inputs["features"].requires_grad:
        raise Missing(f"{package} has no backward")
    if inputs["features"].dtype != torch.float32:
        raise Missing(f"{package}: float32 only here")


def _operands(i: Inputs) -> list:
    offset, mask = _parts(i)
    tensors = (i["features"], offset, i["weight"], mask)
    return [t.detach().contiguous().numpy() for t in tensors]


def _openvino(i: Inputs, pad: int):
    _forward_only(i, "openvino")
    try:
        import openvino
        from openvino import opset8
    except ImportError as error:
        raise Missing(f"pip install openvino ({error})") from None
    data, offset, weight, mask = _operands(i)
    inputs = [opset8.parameter(a.shape, dtype=np.float32) for a in (data, offset, mask)]
    node = opset8.deformable_convolution(
        inputs[0], inputs[1], opset8.constant(weight), [i.stride] * 2,
        [pad, pad], [pad, pad], [1, 1], mask=inputs[2], bilinear_interpolation_pad=True,
        group=i.groups, deformable_group=i.offset_groups,
    )  # fmt: skip
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(openvino.Model([node], inputs, "deformable"), "CPU", hint)
    request = compiled.create_infer_request()
    bias = i["bias"].detach().view(1, -1, 1, 1)

    def run():
        result = request.infer([data, offset, mask], share_inputs=True, share_outputs=True)
        return torch.from_numpy(result[0]).add(bias)

    return run


def _onnxruntime(i: Inputs, pad: int):
    _forward_only(i, "onnxruntime")
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError as error:
        raise Missing(f"pip install onnx onnxruntime ({error})") from None
    data, offset, weight, mask = _operands(i)
    bias = i["bias"].detach().numpy()
    feeds = {"X": data, "W": weight, "offset": offset, "B": bias, "mask": mask}
    values = [
        helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in feeds.items()
    ]
    out = helper.make_tensor_value_info(
        "Y", TensorProto.FLOAT, [data.shape[0], weight.shape[0], *offset.shape[2:]]
    )
    node = helper.make_node(
        "DeformConv", list(feeds), ["Y"], pads=[pad] * 4, kernel_shape=list(weight.shape[2:]),
        strides=[i.stride] * 2, group=i.groups, offset_group=i.offset_groups,
    )  # fmt: skip
    graph = helper.make_graph([node], "deformable", values, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: torch.from_numpy(session.run(None, feeds)[0])


def loss(batch: int, verbs: int, size: int) -> Case:
    """`hna_loss` on targets with a few positives and hard negatives."""

    def make(dtype: torch.dtype) -> Inputs:
        target = torch.rand(batch, verbs, size, size).pow(40)
        for value, count in ((1.0, 12), (-1.0, 90)):
            target.view(-1)[torch.randint(target.numel(), (batch * count,))] = value
        logits = (torch.randn(batch, verbs, size, size) - 2.19).to(dtype).requires_grad_()
        return Inputs({"logits": logits, "target": target.to(dtype)}, ["logits"])

    def compiled(i: Inputs):
        run = torch.compile(reference.hna_loss)
        return lambda: run(i["logits"], i["target"])

    def ggnet(i: Inputs):
        return lambda: ops.hna_loss(i["logits"], i["target"])

    cells = batch * verbs * size * size
    return Case(
        "hna_loss",
        f"{batch}x{verbs}x{size}x{size}",
        make,
        {
            "ggnet": ggnet,
            "triton": by_triton(ggnet),
            "torch.compile": compiled,
            "torch eager": lambda i: lambda: reference.hna_loss(i["logits"], i["target"]),
        },
        bytes=lambda e: 2.0 * e * cells,
        full_bytes=lambda e: 3.0 * e * cells,
    )


def peaks(batch: int, verbs: int, size: int, k: int) -> Case:
    """`topk_peaks` on smooth maps with noise, against max-pooling, comparing and torch.topk."""

    def make(dtype: torch.dtype) -> Inputs:
        coarse = torch.randn(batch, verbs, size // 8, size // 8)
        smooth = F.interpolate(coarse, size=(size, size), mode="bilinear") * 3 - 4
        return Inputs({"logits": (smooth + 0.1 * torch.randn_like(smooth)).to(dtype)})

    def eager(i: Inputs):
        def run():
            x = i["logits"]
            kept = torch.where(F.max_pool2d(x, 3, 1, 1) == x, x.sigmoid(), 0)
            scores, index = kept.flatten(1).topk(k)
            return scores, index // size**2, index % size**2 // size, index % size

        return run

    def ggnet(i: Inputs):
        return lambda: ops.topk_peaks(i["logits"], k)

    return Case(
        "topk_peaks",
        f"{batch}x{verbs}x{size}x{size}, k={k}",
        make,
        {"ggnet": ggnet, "triton": by_triton(ggnet), "torch eager": eager},
        bytes=lambda e: float(e) * batch * verbs * size * size,
        differentiable=False,
    )


def decode(batch: int, verbs: int, objects: int, size: int, k: int) -> Case:
    """`decode_hoi` from a network's outputs, against the loop over images."""

    def make(dtype: torch.dtype) -> Inputs:
        def maps(channels: int) -> Tensor:
            coarse = torch.randn(batch, channels, size // 8, size // 8)
            return F.interpolate(coarse, size=(size, size), mode="bilinear").to(dtype)

        outputs = {
            "heatmap": maps(objects) * 3 - 4,
            "size": maps(2).abs() * 8,
            "center_frac": torch.rand(batch, 2, size, size, dtype=dtype),
            "interaction": maps(verbs) * 3 - 4,
            "human_offset": maps(2 * verbs) * 5,
            "object_offset": maps(2 * verbs) * 5,
            "valid": torch.rand(verbs, objects) < 0.3,
        }
        return Inputs(outputs)

    def of(function):
        def provider(i: Inputs):
            outputs = {name: t for name, t in i.tensors.items() if name != "valid"}
            return lambda: function(outputs, i["valid"], k=k).scores

        return provider

    return Case(
        "decode_hoi",
        f"{batch} images, {verbs} verbs, {objects} objects, {size}x{size}, {k} of each",
        make,
        {
            "ggnet": of(ops.decode_hoi),
            "triton": by_triton(of(ops.decode_hoi)),
            "torch eager": of(reference.decode_hoi),
        },
        differentiable=False,
    )


def actpoint(batch: int, channels: int, outputs: int, size: int, kernel: int) -> Case:
    return deformable("actpoint_aggregate", batch, channels, outputs, size, size, kernel)


def deform(
    batch: int,
    channels: int,
    outputs: int,
    height: int,
    width: int,
    kernel: int,
    stride: int,
    groups: int,
    offset_groups: int,
) -> Case:
    sizes = (batch, channels, outputs, height, width, kernel)
    return deformable("deform_conv2d", *sizes, stride, groups, offset_groups)


# What makes a case, and its shape unless --shape says another.
CASES: dict[str, tuple[Callable[..., Case], tuple[int, ...]]] = {
    "actpoint": (actpoint, (1, 256, 256, 128, 5)),
    "actpoint-demo": (actpoint, (16, 32, 32, 32, 5)),
    "deform3x3": (deform, (1, 64, 64, 128, 128, 3, 1, 1, 1)),
    # What the networks of bench/deformable.py have: BiRefNet's last decoder block, BasicVSR++'s
    # alignment of two frames, the first block of a stage of ResNet-50, a later one of ResNeXt.
    "birefnet1x1": (deform, (1, 64, 256, 256, 256, 1, 1, 1, 1)),
    "birefnet3x3": (deform, (1, 64, 256, 256, 256, 3, 1, 1, 1)),
    "birefnet7x7": (deform, (1, 64, 256, 256, 256, 7, 1, 1, 1)),
    "basicvsr": (deform, (1, 128, 64, 180, 320, 3, 1, 1, 16)),
    "resnet50": (deform, (1, 256, 256, 100, 100, 3, 2, 1, 1)),
    "resnext50": (deform, (1, 512, 512, 50, 50, 3, 1, 32, 1)),
    "actpoint-batch8": (actpoint, (8, 256, 256, 128, 5)),
    "deform3x3-batch8": (deform, (8, 64, 64, 128, 128, 3, 1, 1, 1)),
    "hna_loss": (loss, (4, 117, 128)),
    "topk_peaks": (peaks, (1, 117, 128, 100)),
    "decode_hoi": (decode, (8, 117, 80, 128, 100)),
}

BATCHED = ("actpoint-batch8", "deform3x3-batch8")  # a GPU's: minutes on a CPU


def fields(name: str) -> list[str]:
    """What the numbers of a case's shape mean."""
    return list(inspect.signature(CASES[name][0]).parameters)


def case(name: str, shape: tuple[int, ...] | None = None) -> Case:
    function, usual = CASES[name]
    return function(*(shape or usual))
