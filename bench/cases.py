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
    taps: int = 0

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


def deformable(name: str, batch: int, channels: int, outputs: int, size: int, kernel: int) -> Case:
    """`actpoint_aggregate` or `deform_conv2d`, stride 1, offsets of a few pixels."""
    taps = kernel * kernel

    def make(dtype: torch.dtype) -> Inputs:
        points = torch.randn(batch, 3 * taps, size, size)
        points[:, : 2 * taps] *= 2.0
        tensors = {
            "features": _layout(torch.randn(batch, channels, size, size)),
            "points": points,
            "weight": torch.randn(outputs, channels, kernel, kernel) * (channels * taps) ** -0.5,
            "bias": torch.randn(outputs),
        }
        inputs = Inputs({k: v.to(dtype) for k, v in tensors.items()}, list(tensors), taps)
        for leaf in inputs.leaves:
            inputs[leaf].requires_grad_()
        return inputs

    fused = name == "actpoint_aggregate"
    pad = kernel // 2

    def parts(i: Inputs) -> tuple[Tensor, Tensor]:
        offset, logits = i["points"].split([2 * taps, taps], 1)
        return offset, logits.sigmoid()

    def ggnet(i: Inputs):
        if fused:
            return lambda: ops.actpoint_aggregate(
                i["features"], i["points"], i["weight"], i["bias"], relu=True
            )
        offset, mask = (t.detach().contiguous() for t in parts(i))
        leaves = [t.requires_grad_(i["features"].requires_grad) for t in (offset, mask)]
        return lambda: ops.deform_conv2d(
            i["features"], leaves[0], i["weight"], i["bias"], padding=pad, mask=leaves[1]
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
                offset, mask = parts(i)
                return deform_conv2d(
                    i["features"], offset, i["weight"], i["bias"], padding=pad, mask=mask
                ).relu()

            return run
        offset, mask = (t.detach().contiguous() for t in parts(i))
        leaves = [t.requires_grad_(i["features"].requires_grad) for t in (offset, mask)]
        return lambda: deform_conv2d(
            i["features"], leaves[0], i["weight"], i["bias"], padding=pad, mask=leaves[1]
        )

    def dense(i: Inputs):
        run = lambda: F.conv2d(i["features"], i["weight"], i["bias"], padding=pad)  # noqa: E731
        return (lambda: run().relu()) if fused else run

    def eager(i: Inputs):
        if fused:
            return lambda: reference.actpoint_aggregate(
                i["features"], i["points"], i["weight"], i["bias"], relu=True
            )
        offset, mask = (t.detach() for t in parts(i))
        return lambda: reference.deform_conv2d(
            i["features"], offset, i["weight"], i["bias"], padding=pad, mask=mask
        )

    pixels = batch * size * size
    return Case(
        name,
        f"{batch}x{channels}x{size}x{size}, {outputs} outputs, {taps} points",
        make,
        {
            "ggnet": ggnet,
            "triton": by_triton(ggnet),
            "dense conv2d": dense,
            "torchvision": torchvision,
            "mmcv": lambda i: _mmcv(i, parts, pad, fused),
            "deformops": lambda i: _deformops(i, parts, pad, fused),
            "openvino": lambda i: _openvino(i, pad),
            "onnxruntime": lambda i: _onnxruntime(i, pad),
            "torch eager": eager,
        },
        flops=2.0 * pixels * channels * outputs * taps,
        bytes=lambda e: e * (pixels * (channels + outputs + 3 * taps) + channels * outputs * taps),
    )


def _mmcv(i: Inputs, parts: Callable, pad: int, fused: bool):
    if not i["features"].is_cuda:
        raise Missing("mmcv is compared on a GPU only")
    try:
        from mmcv.ops import modulated_deform_conv2d
    except ImportError as error:
        raise Missing(f"pip install mmcv ({error})") from None

    def run():
        offset, mask = parts(i)
        out = modulated_deform_conv2d(
            i["features"].contiguous(), offset.contiguous(), mask.contiguous(), i["weight"],
            i["bias"], 1, pad, 1, 1, 1,
        )  # fmt: skip
        return out.relu() if fused else out

    return run


def _deformops(i: Inputs, parts: Callable, pad: int, fused: bool):
    if not i["features"].is_cuda:
        raise Missing("deformops is compared on a GPU only")
    try:
        from deformops.registry import conv
    except ImportError as error:
        raise Missing(f"pip install deformops ({error})") from None

    def run():
        offset, mask = (t.movedim(1, -1) for t in parts(i))
        out = conv(
            i["features"].movedim(1, -1),
            offset.unflatten(-1, (1, i.taps, 2)).contiguous(),
            i["weight"],
            i["bias"],
            mask.unflatten(-1, (1, i.taps)).contiguous(),
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
    offset, logits = i["points"].split([2 * i.taps, i.taps], 1)
    tensors = (i["features"], offset, i["weight"], logits.sigmoid())
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
        inputs[0], inputs[1], opset8.constant(weight), [1, 1], [pad, pad], [pad, pad], [1, 1],
        mask=inputs[2], bilinear_interpolation_pad=True,
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
        "DeformConv", list(feeds), ["Y"], pads=[pad] * 4, kernel_shape=list(weight.shape[2:])
    )
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
    return deformable("actpoint_aggregate", batch, channels, outputs, size, kernel)


def deform(batch: int, channels: int, outputs: int, size: int, kernel: int) -> Case:
    return deformable("deform_conv2d", batch, channels, outputs, size, kernel)


# What makes a case, and its shape unless --shape says another.
CASES: dict[str, tuple[Callable[..., Case], tuple[int, ...]]] = {
    "actpoint": (actpoint, (1, 256, 256, 128, 5)),
    "actpoint-demo": (actpoint, (16, 32, 32, 32, 5)),
    "deform3x3": (deform, (1, 64, 64, 128, 3)),
    "actpoint-batch8": (actpoint, (8, 256, 256, 128, 5)),
    "deform3x3-batch8": (deform, (8, 64, 64, 128, 3)),
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
