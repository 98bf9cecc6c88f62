"""The CUDA text of the deformable aggregation, executed, against the reference in float64."""

import numpy as np
import pytest
import torch
from arrays import INSTRUMENTED, ORDERS, SIDE, from_array, garbage, to_array
from tolerances import MATRIX

from ggnet import reference

MATHS = list(MATRIX)

# batch, channels, height, width, outputs, kernel, (stride, pad, dilation), spread of the offsets,
# and weight groups and offset groups, unless both are one
CASES = {
    "aligned": (1, 64, 8, 16, 256, SIDE, (1, SIDE // 2, 1), 2.0),
    "odd": (3, 17, 7, 5, 33, 3, (1, 1, 1), 3.0),
    "far outside": (2, 8, 5, 9, 70, 5, (1, 2, 1), 60.0),
    "49 points": (1, 40, 6, 7, 100, 7, (1, 3, 1), 2.0),
    "strided": (2, 24, 9, 11, 16, 3, (2, 2, 3), 1.0),
    "more than 256 outputs": (1, 12, 5, 6, 300, 3, (1, 1, 1), 1.0),
    "one channel": (1, 1, 3, 3, 1, 3, (1, 1, 1), 1.0),
    "groups": (2, 24, 5, 7, 12, 3, (1, 1, 1), 2.0, 4, 1),
    "offset groups": (1, 64, 6, 9, 140, 3, (1, 1, 1), 3.0, 1, 4),
    "groups of two slices": (1, 128, 5, 7, 160, 3, (2, 1, 1), 2.0, 2, 1),
    "offset groups in groups": (1, 96, 7, 5, 16, 3, (1, 2, 2), 2.0, 2, 6),
    "groups in offset groups": (2, 48, 5, 5, 48, 3, (1, 1, 1), 2.0, 6, 2),
    "crossing groups": (1, 60, 5, 6, 20, 3, (1, 1, 1), 2.0, 4, 6),
    "depthwise": (1, 12, 5, 6, 24, 3, (1, 1, 1), 2.0, 12, 12),
    "groups of more than 256 outputs": (1, 6, 3, 4, 600, 3, (1, 1, 1), 1.0, 2, 1),
}
GROUPED = [case for case, sizes in CASES.items() if len(sizes) > 8]
# Groups are walked alike in every arithmetic: the slow instrumented runs see two.
CASES_AND_MATHS = [
    (case, math)
    for case in CASES
    for math in MATHS
    if case not in GROUPED or not INSTRUMENTED or math in ("bfloat16", "tf32x3")
]
RUNS = [*ORDERS, *([] if INSTRUMENTED else [{"async_early": True}])]


def dtype_of(math):
    """The type that arrays have; TF32 is a way to multiply float32."""
    return "float32" if math.startswith("tf32") else math


class Problem:
    """A random problem in the type of `math`, and the exact result and gradients for it."""

    def __init__(self, case, math, seed, base=True, relu=False, mask="logits"):
        generator = torch.Generator().manual_seed(seed)
        b, c, h, w, o, k, (stride, pad, dilation), spread, *groups = CASES[case]
        groups, offset_groups = groups or (1, 1)
        out = [(n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n in (h, w)]
        self.math, self.relu, self.mask = math, relu, mask

        def random(*shape, scale=1.0):
            values = torch.randn(*shape, generator=generator) * scale
            return from_array(to_array(values, dtype_of(math)), dtype_of(math))

        self.features = random(b, c, h, w)
        points = offset_groups * k * k
        self.offset = random(b, 2 * points, *out, scale=spread)
        self.base = random(b, 2 * points, *out) if base else None
        self.logits = random(b, points, *out)
        self.weight = random(o, c // groups, k, k, scale=(c // groups * k * k) ** -0.5)
        self.bias = random(o)
        self.grad_out = random(b, o, *out)
        names = ("height", "width")
        self.shape = {
            "batch": b, "channels": c, "outputs": o, "kernel_h": k, "kernel_w": k,
            "groups": groups, "offset_groups": offset_groups,
            **dict(zip(names, (h, w), strict=True)),
            **{f"out_{n}": v for n, v in zip(names, out, strict=True)},
            **{f"{n}_{s}": v for n, v in
               (("stride", stride), ("pad", pad), ("dilation", dilation)) for s in "hw"},
        }  # fmt: skip
        self.geometry = {"stride": stride, "padding": pad, "dilation": dilation}

    def exact(self):
        leaves = [self.features, self.offset, self.logits, self.weight, self.bias]
        leaves = [t.clone().requires_grad_() for t in leaves]
        features, offset, logits, weight, bias = leaves
        total = offset if self.base is None else offset + self.base
        mask = {"logits": logits.sigmoid(), "factors": logits, "none": None}[self.mask]
        out = reference.deform_conv2d(features, total, weight, bias, mask=mask, **self.geometry)
        if self.relu:
            out = out.relu()
        out.backward(self.grad_out)
        return out.detach(), [leaf.grad for leaf in leaves]

    def exact_by_name(self):
        out, (features, offset, logits, weight, _) = self.exact()
        return {
            "out": out, "features": features, "offset": offset, "logits": logits, "weight": weight,
        }  # fmt: skip

    def inputs(self):
        """Arguments that every kernel takes."""
        pixel_major = self.features.permute(0, 2, 3, 1)
        return {
            "math": self.math,
            "shape": self.shape,
            "features": to_array(pixel_major, dtype_of(self.math)),
            "offset": to_array(self.offset, dtype_of(self.math)),
            "base_offset": None if self.base is None else to_array(self.base, dtype_of(self.math)),
            "mask": None if self.mask == "none" else to_array(self.logits, dtype_of(self.math)),
            "sigmoid": self.mask == "logits",
        }

    def empty(self, tensor):
        """Room for a result of this shape that holds no zeros by chance."""
        return garbage(tuple(tensor.shape), dtype_of(self.math))


def worst(got, exact):
    """Largest error over max(|exact value|, RMS of the exact values); a NaN is infinitely wrong."""
    error = (got - exact).abs().nan_to_num(nan=float("inf"))
    scale = exact.abs().clamp_min(exact.square().mean().sqrt().item()).clamp_min(1e-30)
    return (error / scale).max().item()


def check_data_gradients(simt, problem, deterministic, **kernels):
    """Of features and points, by the kernels named, against the reference."""
    _, (features, offset, logits, *_) = problem.exact()
    dtype = dtype_of(problem.math)
    grad_out = to_array(problem.grad_out.permute(0, 2, 3, 1), dtype)
    results = []
    for run in RUNS if deterministic else RUNS[-2:]:
        simt.configure(workers=2, **run)
        got = [problem.empty(t) for t in (features.permute(0, 2, 3, 1), offset, logits)]
        simt.actpoint_backward(
            **problem.inputs(), grad_out=grad_out, weight=to_array(problem.weight, dtype),
            grad_features=got[0], grad_offset=got[1], grad_mask=got[2],
            deterministic=deterministic, **kernels,
        )  # fmt: skip
        results.append(got)
        tensors = [from_array(array, dtype) for array in got]
        tensors[0] = tensors[0].permute(0, 3, 1, 2)
        for name, tensor, exact in zip(
            ("features", "offset", "logits"), tensors, (features, offset, logits), strict=True
        ):
            assert worst(tensor, exact) < 2 * MATRIX[problem.math], name
    if deterministic:
        for got in results:
            assert all(np.array_equal(a, b) for a, b in zip(got, results[0], strict=True))


@pytest.mark.parametrize(("case", "math"), CASES_AND_MATHS)
def test_forward_equals_reference(simt, case, math):
    problem = Problem(case, math, seed=1, relu=case == "odd")
    exact, _ = problem.exact()
    outputs = []
    for run in RUNS:
        simt.configure(workers=2, **run)
        out = problem.empty(exact.permute(0, 2, 3, 1))
        simt.actpoint_forward(
            **problem.inputs(), weight=to_array(problem.weight, dtype_of(math)),
            bias=to_array(problem.bias, dtype_of(math)), out=out, relu=problem.relu,
        )  # fmt: skip
        outputs.append(out)
        assert worst(from_array(out, dtype_of(math)).permute(0, 3, 1, 2), exact) < MATRIX[math]
    # No sum depends on the order of threads or on when copies land.
    assert all(np.array_equal(out, outputs[0]) for out in outputs)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("case", "math"), CASES_AND_MATHS)
def test_backward_equals_reference(simt, case, math, deterministic):
    check_data_gradients(simt, Problem(case, math, seed=2), deterministic)


@pytest.mark.parametrize(("case", "math"), CASES_AND_MATHS)
def test_weight_gradient_equals_reference(simt, case, math):
    problem = Problem(case, math, seed=2)
    *_, weight, bias = problem.exact()[1]
    grad_out = to_array(problem.grad_out.permute(0, 2, 3, 1), dtype_of(math))
    results = []
    for run in RUNS:
        simt.configure(workers=2, **run)
        got = [problem.empty(weight), problem.empty(bias)]
        simt.actpoint_weight_grad(
            **problem.inputs(), grad_out=grad_out, grad_weight=got[0], grad_bias=got[1]
        )
        results.append(got)
    for array, exact in zip(results[0], (weight, bias), strict=True):
        assert worst(from_array(array, dtype_of(math)), exact) < 2 * MATRIX[math]
    for got in results:
        assert all(np.array_equal(a, b) for a, b in zip(got, results[0], strict=True))


@pytest.mark.parametrize("mask", ["factors", "none"])
@pytest.mark.parametrize("math", ["bfloat16", "tf32x3"])
@pytest.mark.parametrize("case", ["odd", "crossing groups"])
def test_points_without_a_sigmoid(simt, case, math, mask):
    problem = Problem(case, math, seed=10, mask=mask)
    problem.logits[:, -1] *= 4096  # the largest of all offset groups bounds integer sums
    out, (features, offset, logits, weight, _) = problem.exact()
    dtype = dtype_of(math)
    got = problem.empty(out.permute(0, 2, 3, 1))
    simt.actpoint_forward(
        **problem.inputs(), weight=to_array(problem.weight, dtype),
        bias=to_array(problem.bias, dtype), out=got, relu=False,
    )  # fmt: skip
    assert worst(from_array(got, dtype).permute(0, 3, 1, 2), out) < MATRIX[math]
    grad_out = to_array(problem.grad_out.permute(0, 2, 3, 1), dtype)
    for deterministic in (False, True):
        grads = [problem.empty(t) for t in (features.permute(0, 2, 3, 1), problem.offset)]
        grad_mask = None if mask == "none" else problem.empty(problem.logits)
        simt.actpoint_backward(
            **problem.inputs(), grad_out=grad_out, weight=to_array(problem.weight, dtype),
            grad_features=grads[0], grad_offset=grads[1], grad_mask=grad_mask,
            deterministic=deterministic,
        )  # fmt: skip
        got = from_array(grads[0], dtype).permute(0, 3, 1, 2)
        assert worst(got, features) < 2 * MATRIX[math]
        assert worst(from_array(grads[1], dtype), offset) < 2 * MATRIX[math]
        if mask != "none":
            assert worst(from_array(grad_mask, dtype), logits) < 2 * MATRIX[math]
    got = [problem.empty(weight), problem.empty(problem.bias)]
    simt.actpoint_weight_grad(
        **problem.inputs(), grad_out=grad_out, grad_weight=got[0], grad_bias=got[1]
    )
    assert worst(from_array(got[0], dtype), weight) < 2 * MATRIX[math]


@pytest.mark.parametrize("case", GROUPED)
def test_infinity_and_nan_stay_in_their_groups(simt, case):
    """What one group holds changes no other's results, though a tile has room for several."""
    changed = {
        "features": ("out", "offset", "logits", "weight"),
        "weight": ("out", "features"),
        "grad_out": ("weight", "features"),
    }
    for place, names in changed.items():
        problem = Problem(case, "float32", seed=8, base=False)
        for i, value in enumerate((float("inf"), float("nan"))):
            getattr(problem, place).view(-1)[4 + i] = value
        exact = problem.exact_by_name()
        got = results(simt, problem, "float32")
        for name in names:
            finite = exact[name].isfinite()
            assert not finite.all(), (place, name)
            assert worst(got[name][finite], exact[name][finite]) < MATRIX["float32"], (place, name)


@pytest.mark.parametrize("case", ["groups of two slices", "offset groups"])
def test_hopper_kernels_have_one_group(simt, case):
    problem = Problem(case, "bfloat16", seed=0)
    out = problem.empty(problem.exact()[0].permute(0, 2, 3, 1))
    weight, bias = (to_array(t, "bfloat16") for t in (problem.weight, problem.bias))
    with pytest.raises(ValueError, match="cannot do this"):
        simt.actpoint_forward(
            **problem.inputs(), weight=weight, bias=bias, out=out, relu=False, hopper=True
        )


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("math", MATHS)
def test_weight_gradient_over_many_tiles_of_pixels(simt, monkeypatch, math, splits):
    """A block has one tile of 32 pixels above; here 20, or 10, which two groups of 8 place."""
    for shape in ((2, 64, 16, 20, 64, 1, (1, 0, 1), 2.0), (1, 9, 23, 27, 5, 1, (1, 0, 1), 2.0)):
        monkeypatch.setitem(CASES, "many tiles", shape)
        problem = Problem("many tiles", math, seed=5)
        *_, weight, bias = problem.exact()[1]
        results = []
        for run in RUNS[::2]:
            simt.configure(workers=2, **run)
            got = [problem.empty(weight), problem.empty(bias)]
            simt.actpoint_weight_grad(
                **problem.inputs(), splits=splits, grad_weight=got[0], grad_bias=got[1],
                grad_out=to_array(problem.grad_out.permute(0, 2, 3, 1), dtype_of(math)),
            )  # fmt: skip
            results.append(got)
        for array, exact in zip(results[0], (weight, bias), strict=True):
            assert worst(from_array(array, dtype_of(math)), exact) < 2 * MATRIX[math]
        for got in results:
            assert all(np.array_equal(a, b) for a, b in zip(got, results[0], strict=True))


@pytest.mark.parametrize("math", ["float32", "float16", "bfloat16"])
def test_gradient_of_the_relu(simt, math):
    """Zero where the output is 0, whatever the sign of it; NaN passes, as torch has it."""
    nan, inf = float("nan"), float("inf")
    out = torch.tensor([1.0, 0.0, -0.0, nan, inf, 6e-8, 2.0, 0.0] * 300)
    grad = torch.randn(2400, generator=torch.Generator().manual_seed(0)).double()
    grad[::7] = nan
    grad = from_array(to_array(grad, math), math)
    masked = garbage((2400,), math)
    simt.actpoint_relu_grad(math, to_array(grad, math), to_array(out, math), masked, 2400)
    out = from_array(to_array(out, math), math)
    exact = torch.where(out <= 0, 0.0, grad)
    torch.testing.assert_close(from_array(masked, math), exact, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("math", MATHS)
@pytest.mark.parametrize("where", ["features", "bias"])
def test_nan_passes_the_relu(simt, math, where):
    problem = Problem("odd", math, seed=6, relu=True)
    getattr(problem, where).view(-1)[1] = float("nan")
    exact, _ = problem.exact()
    out = problem.empty(exact.permute(0, 2, 3, 1))
    simt.actpoint_forward(
        **problem.inputs(), weight=to_array(problem.weight, dtype_of(math)),
        bias=to_array(problem.bias, dtype_of(math)), out=out, relu=True,
    )  # fmt: skip
    got = from_array(out, dtype_of(math)).permute(0, 3, 1, 2)
    if where == "bias":
        assert torch.equal(got.isnan(), exact.isnan())
    # The definition multiplies corners that have no share, too.
    assert got.isnan().any()
    assert not (got.isnan() & ~exact.isnan()).any()


@pytest.mark.parametrize("math", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rest", [1.0, 2.0**-20])
def test_the_largest_possible_sum_of_the_deterministic_mode(simt, monkeypatch, math, sign, rest):
    """Every point of every output pixel adds the largest contribution to one cell. It may be that
    of one lane in 32, the last one."""
    monkeypatch.setitem(CASES, "one cell", (2, 8, 8, 8, 64, 3, (1, 1, 1), 0.0))
    problem = Problem("one cell", math, seed=0, base=False)
    problem.features.zero_()
    problem.weight.fill_(1.0)
    problem.grad_out.fill_(2.0 * sign * rest)
    problem.grad_out[:, 31::32] = 2.0 * sign
    problem.logits.fill_(60.0)  # a sigmoid of 1
    taps = torch.arange(9)
    rows, columns = torch.arange(8.0).view(8, 1), torch.arange(8.0).view(1, 8)
    for k in taps.tolist():  # to cell (2, 5)
        problem.offset[:, 2 * k] = 2 - (rows + k // 3 - 1)
        problem.offset[:, 2 * k + 1] = 5 - (columns + k % 3 - 1)
    exact = torch.zeros_like(problem.features)
    exact[:, :, 2, 5] = problem.grad_out[0, :, 0, 0].sum() * 9 * 64  # points, pixels
    dtype = dtype_of(math)
    got = [problem.empty(t) for t in (exact.permute(0, 2, 3, 1), problem.offset, problem.logits)]
    simt.actpoint_backward(
        **problem.inputs(), grad_out=to_array(problem.grad_out.permute(0, 2, 3, 1), dtype),
        weight=to_array(problem.weight, dtype), grad_features=got[0], grad_offset=got[1],
        grad_mask=got[2], deterministic=True,
    )  # fmt: skip
    features = from_array(got[0], dtype).permute(0, 3, 1, 2)
    assert torch.equal(features, from_array(to_array(exact, dtype), dtype))


@pytest.mark.parametrize("limit", [99, 163])  # KiB of a block on sm_86 and sm_80
@pytest.mark.parametrize("math", ["bfloat16", "float32"])
def test_devices_with_less_shared_memory_get_smaller_tiles(simt, math, limit):
    problem = Problem("aligned", math, seed=4)
    exact, (features, *_) = problem.exact()
    simt.configure(workers=2, shared_limit=limit << 10)
    dtype = dtype_of(math)
    weight = to_array(problem.weight, dtype)
    out = problem.empty(exact.permute(0, 2, 3, 1))
    simt.actpoint_forward(
        **problem.inputs(), weight=weight, bias=to_array(problem.bias, dtype), out=out, relu=False
    )
    assert worst(from_array(out, dtype).permute(0, 3, 1, 2), exact) < MATRIX[math]
    grads = [problem.empty(t) for t in (features.permute(0, 2, 3, 1), problem.offset)]
    grad_mask = problem.empty(problem.logits)
    simt.actpoint_backward(
        **problem.inputs(), grad_out=to_array(problem.grad_out.permute(0, 2, 3, 1), dtype),
        weight=weight, grad_features=grads[0], grad_offset=grads[1], grad_mask=grad_mask,
        deterministic=False,
    )  # fmt: skip
    got = from_array(grads[0], dtype).permute(0, 3, 1, 2)
    assert worst(got, features) < MATRIX[math]


def results(simt, problem, math):
    """The output and the gradients of features, offset, logits and weight, by `math`."""
    problem.math = math
    weight, bias = (to_array(t, "float32") for t in (problem.weight, problem.bias))
    grad_out = to_array(problem.grad_out.permute(0, 2, 3, 1), "float32")
    out = problem.empty(problem.grad_out.permute(0, 2, 3, 1))
    features = problem.empty(problem.features.permute(0, 2, 3, 1))
    offset, logits, grad_weight, grad_bias = map(
        problem.empty, (problem.offset, problem.logits, problem.weight, problem.bias)
    )
    simt.actpoint_forward(**problem.inputs(), weight=weight, bias=bias, out=out, relu=False)
    simt.actpoint_backward(
        **problem.inputs(), grad_out=grad_out, weight=weight, grad_features=features,
        grad_offset=offset, grad_mask=logits, deterministic=False,
    )  # fmt: skip
    simt.actpoint_weight_grad(
        **problem.inputs(), grad_out=grad_out, grad_weight=grad_weight, grad_bias=grad_bias
    )
    arrays = {
        "out": out.transpose(0, 3, 1, 2), "features": features.transpose(0, 3, 1, 2),
        "offset": offset, "logits": logits, "weight": grad_weight,
    }  # fmt: skip
    return {name: from_array(array.copy(), "float32") for name, array in arrays.items()}


def scaled(problem, features=1.0, weight=1.0, grad_out=1.0):
    """The same problem in other magnitudes, of float32."""
    for name, by in (("features", features), ("weight", weight), ("grad_out", grad_out)):
        setattr(problem, name, (getattr(problem, name) * by).float().double())


def cancelling(problem):
    """Each channel and each output nearly undoes the one before it."""
    for tensor, dim in ((problem.weight, 1), (problem.weight, 0)):
        odd = tensor.narrow(dim, 0, tensor.shape[dim] // 2 * 2).unflatten(dim, (-1, 2))
        odd = odd.select(dim + 1, 1)
        odd.copy_(
            -tensor.narrow(dim, 0, 2 * odd.shape[dim]).unflatten(dim, (-1, 2)).select(dim + 1, 0)
        )
        odd.mul_(1 + 1e-3 * torch.rand(odd.shape))
    for tensor in (problem.features, problem.grad_out):
        odd = tensor[:, 1::2]
        odd.copy_(tensor[:, : 2 * odd.shape[1] : 2])
    scaled(problem)


MAGNITUDES = {
    "ordinary": lambda problem: None,
    "large": lambda problem: scaled(problem, features=1e18, weight=1e17, grad_out=1e-17),
    "tiny": lambda problem: scaled(problem, features=1e-18, weight=1e-18, grad_out=1e17),
    "cancellation": cancelling,
}


@pytest.mark.parametrize("magnitude", list(MAGNITUDES))
@pytest.mark.parametrize("case", ["long sums", "odd", "strided", "one channel"])
def test_three_tf32_products_are_as_exact_as_float32(simt, monkeypatch, case, magnitude):
    """Beside plain float32, 2^-22 more of the products' root sum of squares; long sums gain."""
    monkeypatch.setitem(CASES, "long sums", (1, 256, 4, 8, 64, 3, (1, 1, 1), 2.0))
    ordinary, problem = (Problem(case, "float32", seed=7, base=False) for _ in range(2))
    for p in (ordinary, problem):
        p.bias.zero_()
        if magnitude != "cancellation" or p is problem:
            MAGNITUDES[magnitude](p)
    sizes, exact = ordinary.exact_by_name(), problem.exact_by_name()
    plain, split = (results(simt, problem, math) for math in ("float32", "tf32x3"))
    for name in exact:
        scale = sizes[name].square().mean().sqrt()
        errors = [(r[name] - exact[name]) / scale for r in (plain, split)]
        largest_plain, largest = (e.abs().max() for e in errors)
        rms_plain, rms = (e.square().mean().sqrt() for e in errors)
        assert rms <= rms_plain + 2**-22, name
        assert largest <= largest_plain + 2**-19, name
        if case == "long sums" and name == "out" and magnitude != "cancellation":
            assert rms < 0.7 * rms_plain


@pytest.mark.parametrize("case", ["odd", "more than 256 outputs"])
def test_infinity_and_nan_are_those_of_float32(simt, case):
    """By three TF32 products: what is finite in plain arithmetic stays so, and what is not too."""
    inf, nan = float("inf"), float("nan")
    for place in ("features", "weight", "grad_out"):
        problem = Problem(case, "float32", seed=8, base=False)
        values = getattr(problem, place)
        for i, value in enumerate((inf, -inf, nan)):
            values[-1, 3 * i + 1, 1, i % 3] = value
        plain, split = (results(simt, problem, math) for math in ("float32", "tf32x3"))
        for name, got in split.items():
            expected = plain[name]
            assert torch.equal(got.isnan(), expected.isnan()), (place, name)
            assert torch.equal(got.isposinf(), expected.isposinf()), (place, name)
            assert torch.equal(got.isneginf(), expected.isneginf()), (place, name)
            finite = expected.isfinite()
            assert worst(got[finite], expected[finite]) < MATRIX["tf32x3"], (place, name)


def test_the_largest_floats_stay_finite(simt):
    """Rounded to TF32's ten bits they would be infinite."""
    largest = torch.finfo(torch.float32).max
    for place in ("weight", "grad_out"):
        problem = Problem("odd", "float32", seed=9, base=False)
        scaled(problem, features=1e-6, weight=1e-6, grad_out=1e-6)
        values = getattr(problem, place)
        values[:, ::2] = largest
        values[:, 1] = -largest
        exact = problem.exact_by_name()
        for name, got in results(simt, problem, "tf32x3").items():
            assert worst(got, exact[name]) < MATRIX["tf32x3"], (place, name)


def test_nan_offset_is_outside(simt):
    problem = Problem("odd", "float32", seed=3, base=False)
    problem.offset[:, :, 2, 3] = float("nan")
    problem.offset[:, :, 4, 1] = float("inf")
    problem.offset[:, :, 0, 0] = 3e38
    exact, _ = problem.exact()
    out = problem.empty(exact.permute(0, 2, 3, 1))
    simt.actpoint_forward(
        **problem.inputs(), weight=to_array(problem.weight, "float32"),
        bias=to_array(problem.bias, "float32"), out=out, relu=False,
    )  # fmt: skip
    assert worst(from_array(out, "float32").permute(0, 3, 1, 2), exact) < MATRIX["float32"]


def test_gathers_each_sample_once_at_full_width(simt):
    """Traffic of a 64-pixel tile at C=O=256, K=25: one gather a sample, sectors fully used."""
    if not simt.traced:
        pytest.skip("needs GGNET_SIMT_VARIANT=traced")
    CASES["tile"] = (1, 256, 8, 8, 256, 5, (1, 2, 1), 0.3)
    problem = Problem("tile", "float16", seed=4, base=False)
    del CASES["tile"]
    exact, _ = problem.exact()
    simt.actpoint_forward(
        **problem.inputs(), weight=to_array(problem.weight, "float16"),
        bias=to_array(problem.bias, "float16"),
        out=problem.empty(exact.permute(0, 2, 3, 1)), relu=True,
    )  # fmt: skip
    counted = simt.counters()
    corners = 64 * 25 * 4 * 256 * 2
    weights = 256 * 256 * 25 * 2
    points = 64 * 75 * 2
    assert counted["load_bytes"] <= 1.15 * (corners + weights + points)
    assert counted["load_sectors"] * 32 <= 1.05 * counted["load_bytes"]
    assert counted["store_sectors"] * 32 == counted["store_bytes"] == 64 * 256 * 2
    assert counted["shared_wavefronts"] <= 1.05 * counted["shared_phases"]
    assert counted["mma_macs"] == 64 * 256 * 256 * 25
