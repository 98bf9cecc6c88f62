"""torchvision's deform_conv2d on ggnet's kernels: everywhere, equal, undone.

All but the errors of a missing torchvision are skipped where it is not installed.
"""

import subprocess
import sys
import threading
import warnings

import pytest
import torch
from op_testing import assert_close, randn
from tolerances import COMPILED
from torch import nn
from torch.library import opcheck
from torch.utils.data import DataLoader, Dataset

from ggnet.ops import BackendError, _torchvision, replace_torchvision, resolve, use_backend

CASES = {
    "plain": {},
    "steps": {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    "rectangle": {"kernel": (1, 3)},
    "no image": {"batch": 0},
    "groups": {"groups": 2},
    "offset groups": {"offset_groups": 4, "stride": (2, 2)},
    "depthwise": {"groups": 4, "outputs": 8, "offset_groups": 2, "padding": (1, 1)},
}


@pytest.fixture(scope="module")
def vision():
    """torchvision.ops, imported before any replacement."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not import: {error}")
    return torchvision.ops


@pytest.fixture
def ran(monkeypatch):
    """The names of ggnet's operators that ran in torchvision's place."""
    names = []

    def checked(name, *arguments):
        found = original(name, *arguments)
        names.append(name)
        return found

    original = _torchvision.checked
    monkeypatch.setattr(_torchvision, "checked", checked)
    return names


def sample(
    batch=2,
    outputs=6,
    kernel=(3, 3),
    stride=(1, 1),
    padding=(0, 0),
    dilation=(1, 1),
    groups=1,
    offset_groups=1,
):
    """input, offset, weight, bias, mask in float64, and the keywords."""
    points = offset_groups * kernel[0] * kernel[1]
    sides = zip((9, 10), kernel, stride, padding, dilation, strict=True)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides]
    tensors = (
        randn(batch, 4, 9, 10),
        randn(batch, 2 * points, *out, seed=1, scale=2.0),
        randn(outputs, 4 // groups, *kernel, seed=2),
        randn(outputs, seed=3),
        randn(batch, points, *out, seed=4).sigmoid(),
    )
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation}


def results(function, tensors, keywords, dtype):
    """The output, and the gradients of half the sum of its squares."""
    leaves = [
        None if t is None else t.detach().to(dtype, copy=True).requires_grad_() for t in tensors
    ]
    *first, mask = leaves
    output = function(*first, **keywords, mask=mask)
    output.backward(output.detach())
    return [output, *(leaf.grad for leaf in leaves if leaf is not None)]


@pytest.mark.parametrize("without", ["nothing", "bias", "mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_equals_torchvision_forward_and_in_every_gradient(vision, ran, case, dtype, without):
    (*tensors, bias, mask), keywords = sample(**CASES[case])
    tensors += [None if without == "bias" else bias, None if without == "mask" else mask]
    expected = results(vision.deform_conv2d, tensors, keywords, torch.float64)
    assert not ran
    with replace_torchvision(strict=True):
        actual = results(vision.deform_conv2d, tensors, keywords, dtype)
    assert ran == ["deform_conv2d", "deform_conv2d_backward"]
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert one.is_contiguous()
        assert_close(f"result {index}", one, other, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_on_the_cpu(vision, dtype):
    tensors, keywords = sample()
    rounded = [t.to(dtype).double() for t in tensors]
    expected = results(vision.deform_conv2d, rounded, keywords, torch.float64)
    with replace_torchvision(strict=True):
        actual = results(vision.deform_conv2d, tensors, keywords, dtype)
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert_close(f"result {index}", one, other, dtype, factor=2)  # it seeds its own backward


def test_the_layer_in_channels_last(vision):
    layer = vision.DeformConv2d(4, 6, 3, padding=1)
    x = randn(2, 4, 8, 9).float().to(memory_format=torch.channels_last)
    offset = randn(2, 18, 8, 9, seed=1).float()
    expected = layer(x, offset)
    with replace_torchvision(strict=True):
        actual = layer(x, offset)
    assert actual.stride() == expected.stride()
    torch.testing.assert_close(actual, expected, **COMPILED)


def call(vision):
    tensors, keywords = sample()
    *first, mask = (t.float() for t in tensors)
    return vision.deform_conv2d(*first, **keywords, mask=mask)


def test_permanent_nested_and_undone(vision, ran):
    def counted():
        ran.clear()
        call(vision)
        return len(ran)

    permanent = replace_torchvision()
    assert counted() == 1
    with replace_torchvision() as inner:
        assert counted() == 1
    assert not inner.active
    assert counted() == 1
    again = replace_torchvision()
    permanent.undo()
    assert counted() == 1
    again.undo()
    again.undo()
    assert counted() == 0
    with pytest.raises(RuntimeError, match=r"undone; call replace_torchvision\(\) again"), again:
        pass
    with pytest.raises(ZeroDivisionError), replace_torchvision():
        raise ZeroDivisionError
    assert counted() == 0


def test_every_thread_and_forked_loader(vision, ran):
    class Images(Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, _):
            ran.clear()
            return call(vision), len(ran)

    with replace_torchvision():
        thread = threading.Thread(target=call, args=(vision,))
        thread.start()
        thread.join()
        assert ran == ["deform_conv2d"]
        loader = DataLoader(Images(), num_workers=1, multiprocessing_context="fork")
        [(output, count)] = list(loader)
        assert count == 1
        torch.testing.assert_close(output[0], call(vision))


def test_what_ggnet_does_not_take_is_torchvisions_with_one_note(vision):
    tensors, keywords = sample()
    expected = results(vision.deform_conv2d, tensors, keywords, torch.float32)
    with use_backend("cuda"), replace_torchvision():
        with pytest.warns(UserWarning, match="leaves a deform_conv2d to torchvision.*on cpu"):
            actual = results(vision.deform_conv2d, tensors, keywords, torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(vision)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_strict_refuses_what_ggnet_does_not_take(vision):
    refused = pytest.raises(BackendError, match=r"(?s)does not take.*on cpu.*strict=True")
    with use_backend("cuda"), replace_torchvision(), replace_torchvision(strict=True), refused:
        call(vision)
    call(vision)


WRONG = {
    "offset": lambda x, o, w, b, m: (x, o[:, :17], w, b, m),
    "mask": lambda x, o, w, b, m: (x, o, w, b, m[:, :8]),
    "weight": lambda x, o, w, b, m: (x, o, w[:, :3], b, m),
    "dtype": lambda x, o, w, b, m: (x, o, w.double(), b, m),
    "quantized": lambda x, *rest: (torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), *rest),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.filterwarnings("ignore:ggnet leaves", "ignore:torch.quantize_per_tensor")
def test_wrong_arguments_get_torchvisions_own_error(vision, wrong):
    tensors, keywords = sample()
    *first, mask = WRONG[wrong](*(t.float() for t in tensors))

    def error():
        with pytest.raises((RuntimeError, ValueError)) as caught:
            vision.deform_conv2d(*first, **keywords, mask=mask)
        return type(caught.value), str(caught.value).splitlines()[0]

    expected = error()
    with replace_torchvision():
        assert error() == expected


def test_numbers_of_groups_that_the_shapes_do_not_have(vision):
    x, offset, weight, bias, mask = (t.float() for t in sample()[0])
    steps = (1, 1, 0, 0, 1, 1, 2, 1, True)
    with replace_torchvision(strict=True), pytest.raises(BackendError, match=r"\(2, 1\).*\(1, 1\)"):
        torch.ops.torchvision.deform_conv2d(x, weight, offset, mask, bias, *steps)


def test_meta_tensors(vision):
    tensors, keywords = sample()
    *first, mask = (t.to("meta") for t in tensors)
    with replace_torchvision(strict=True):
        assert vision.deform_conv2d(*first, **keywords, mask=mask).shape == (2, 6, 7, 8)


def test_second_derivatives_are_refused_as_by_torchvision(vision):
    tensors, _ = sample()
    *first, mask = (t.requires_grad_() for t in tensors)
    with replace_torchvision(strict=True):
        output = vision.deform_conv2d(*first, mask=mask)
        [grad] = torch.autograd.grad(output.square().sum(), first[0], create_graph=True)
        with pytest.raises(RuntimeError, match="double backwards"):
            grad.sum().backward()


def test_autocast_on_the_cpu_computes_in_float32_and_keeps_the_inputs_dtype(vision):
    tensors, keywords = sample()
    x, offset, weight, bias, mask = tensors
    mixed = [x.bfloat16(), offset.float(), weight.float(), bias.float(), mask.bfloat16()]
    expected = results(vision.deform_conv2d, [t.double() for t in mixed], keywords, torch.float64)
    leaves = [t.requires_grad_() for t in mixed]
    with replace_torchvision(strict=True), torch.autocast("cpu"):
        output = vision.deform_conv2d(*leaves[:4], **keywords, mask=leaves[4])
        output.backward(expected[0].bfloat16())
    assert output.dtype == torch.bfloat16
    for leaf, grad in zip(leaves, expected[1:], strict=True):
        assert leaf.grad.dtype == leaf.dtype
        assert_close("gradient", leaf.grad, grad, torch.bfloat16)
    assert_close("output", output, expected[0], torch.bfloat16)


@pytest.mark.parametrize("masked", [True, False])
def test_operator_checks(vision, masked):
    x, offset, weight, bias, mask = (t.float().requires_grad_() for t in sample()[0])
    with replace_torchvision(strict=True):
        opcheck(
            torch.ops.torchvision.deform_conv2d.default,
            (x, weight, offset, mask, bias, 1, 1, 0, 0, 1, 1, 1, 1, masked),
        )


class Layer(nn.Module):
    """A layer whose function was imported with this module's."""

    def __init__(self, vision):
        super().__init__()
        torch.manual_seed(0)
        self.layer = vision.DeformConv2d(4, 6, 3, padding=1)

    def forward(self, x, offset):
        return self.layer(x, offset).relu()


INPUTS = randn(2, 4, 8, 9).float(), randn(2, 18, 8, 9, seed=1).float()


@pytest.mark.parametrize(
    "program",
    [
        lambda layer: torch.compile(layer, fullgraph=True),
        lambda layer: torch.export.export(layer, INPUTS).module(),
        lambda layer: torch.export.export(layer, INPUTS).run_decompositions().module(),
        lambda layer: torch.jit.trace(layer, INPUTS),
        lambda layer: torch.jit.script(layer.layer),
    ],
    ids=["compiled", "exported", "decomposed", "traced", "scripted"],
)
@pytest.mark.parametrize("made_under", [True, False])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_programs(vision, ran, program, made_under):
    layer = Layer(vision)
    expected = layer(*INPUTS)
    if made_under:
        with replace_torchvision(strict=True):
            run = program(layer)
            run(*INPUTS)
    else:
        run = program(layer)
        run(*INPUTS)
    ran.clear()
    with replace_torchvision(strict=True):
        actual = run(*INPUTS)
        assert "deform_conv2d" in ran
        torch.testing.assert_close(actual.relu(), expected, **COMPILED)
        actual.sum().backward()
        assert ran[-1] == "deform_conv2d_backward"
    ran.clear()
    run(*INPUTS)
    assert not ran


def test_resolve_says_so(vision):
    x = torch.empty(1, 4, 8, 8)
    assert "torchvision" not in str(resolve("deform_conv2d", x))
    with replace_torchvision():
        lines = str(resolve("deform_conv2d", x)).splitlines()
        assert lines[-1].startswith("  torchvision.ops.deform_conv2d: runs this")
        assert resolve("topk_peaks", x).torchvision is None
        with replace_torchvision(strict=True) as strict:
            assert "error" in resolve("deform_conv2d", x).torchvision
            assert repr(strict) == "<replace_torchvision(strict=True), active>"
    assert resolve("deform_conv2d", x).torchvision is None


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="needs torchvision.*pip install torchvision"):
        replace_torchvision()


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "nms does not exist"),
        ("__version__ = '0.1'", "torchvision 0.1 could not load them"),
    ],
)
def test_with_a_torchvision_for_another_torch(tmp_path, broken, says):
    (tmp_path / "torchvision.py").write_text(broken)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "import ggnet\nwith ggnet.ops.replace_torchvision(): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: replace_torchvision needs torchvision")
    assert says in last
    assert torch.__version__ in last
