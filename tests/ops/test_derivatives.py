"""Second derivatives, forward mode and torch.func, by every route, as the reference gives them."""

import pytest
import torch
import torch.nn.functional as F
from op_testing import DTYPES, generator, randn
from tolerances import CPU
from torch import func
from torch.autograd import forward_ad, functional

from ggnet import ops, reference

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def target(*shape, seed=1):
    values = torch.rand(shape, generator=generator(seed), dtype=torch.float64) * 2 - 1
    values[values > 0.7], values[values < -0.7] = 1, -1
    return values


TARGET = target(2, 3, 3, 4)
MIXTURE = randn(2, 3, 3, 4, seed=20)


# name: a scalar function of a tuple of tensors, by the operators of a module, and the tensors
def loss(module, logits):
    return module.hna_loss(logits, TARGET, alpha=1.5)


def aggregate(module, features, points, weight, bias, base_offset):
    output = module.actpoint_aggregate(features, points, weight, bias, base_offset, relu=True)
    return (output.tanh() * MIXTURE).sum()


def aggregate_alone(module, features, points, weight):
    return (module.actpoint_aggregate(features, points, weight).tanh() * MIXTURE).sum()


def convolve(module, input, offset, weight, bias, mask):
    output = module.deform_conv2d(input, offset, weight, bias, (1, 2), 1, (1, 1), mask)
    return (output.tanh() * MIXTURE[..., :2]).sum()


ACTPOINT = (
    randn(2, 2, 3, 4),
    randn(2, 27, 3, 4, seed=1),
    randn(3, 2, 3, 3, seed=2, scale=0.3),
    randn(3, seed=3),
    randn(2, 18, 3, 4, seed=4),
)
CASES = {
    "hna_loss": (loss, (randn(2, 3, 3, 4, scale=3.0),)),
    "actpoint_aggregate": (aggregate, ACTPOINT),
    "actpoint_aggregate without the optional": (aggregate_alone, ACTPOINT[:3]),
    "deform_conv2d": (
        convolve,
        (
            ACTPOINT[0],
            randn(2, 18, 3, 2, seed=5),
            *ACTPOINT[2:4],
            randn(2, 9, 3, 2, seed=6),
        ),
    ),
    "deform_conv2d in groups": (
        convolve,
        (
            randn(2, 3, 3, 4),
            randn(2, 54, 3, 2, seed=5),
            randn(3, 1, 3, 3, seed=2, scale=0.3),
            randn(3, seed=3),
            randn(2, 27, 3, 2, seed=6),
        ),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    """(by the operators, by the reference, tensors)"""
    function, tensors = CASES[request.param]
    by = [lambda *t, m=module: function(m, *t) for module in (ops, reference)]
    return *by, tensors


def assert_equal(got, expected):
    torch.testing.assert_close(got, expected, **EXACT)


def leaves(tensors):
    return [t.clone().requires_grad_() for t in tensors]


def directions(tensors):
    return tuple(randn(*t.shape, seed=50 + i) for i, t in enumerate(tensors))


def penalty(function, tensors, backward):
    """Gradients of a function of the gradients."""
    inputs = leaves(tensors)
    # Behind layers of its own: the operator's tensors are held by the graph alone.
    value = function(*(torch.sin(t) for t in inputs))
    if backward:
        value.backward(create_graph=True)
        grads = [t.grad for t in inputs]
        total = sum(g.square().sum() for g in grads)
        for t in inputs:
            t.grad = None
        total.backward()
        return [t.grad for t in inputs]
    grads = torch.autograd.grad(3 * value, inputs, create_graph=True)
    return list(torch.autograd.grad(sum(g.square().sum() for g in grads), inputs))


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("backward", [True, False])
def test_gradient_penalty(case, backward):
    by_ops, by_reference, tensors = case
    assert_equal(
        penalty(by_ops, tensors, backward),
        penalty(by_reference, tensors, backward),
    )


@pytest.mark.parametrize("vectorize", [False, True])
def test_hessian(case, vectorize):
    by_ops, by_reference, tensors = case
    hessians = [
        functional.hessian(lambda t, f=f: f(t, *tensors[1:]), tensors[0], vectorize=vectorize)
        for f in (by_ops, by_reference)
    ]
    assert_equal(*hessians)
    assert hessians[0].abs().max() > 0


@pytest.mark.parametrize("product", [functional.hvp, functional.vhp, functional.jvp])
def test_products_of_a_graph(case, product):
    by_ops, by_reference, tensors = case
    got, expected = (product(f, tensors, directions(tensors))[1] for f in (by_ops, by_reference))
    assert_equal(got, expected)


def test_gradgradcheck(case):
    by_ops, _, tensors = case
    assert torch.autograd.gradgradcheck(by_ops, leaves(tensors), fast_mode=True)


def test_a_third_derivative(case):
    by_ops, by_reference, tensors = case

    def third(function):
        inputs = leaves(tensors)
        value = function(*inputs)
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, inputs[:1], create_graph=True)
            value = grad.square().sum()
        return value

    assert_equal(third(by_ops), third(by_reference))


def test_a_tensor_given_twice():
    x = randn(1, 9, 4, 4, scale=0.5)

    def function(module, t):
        return module.deform_conv2d(t, torch.cat([t, t], 1), t[:, :, :3, :3], padding=1, mask=t)

    results = []
    for module in (ops, reference):
        (leaf,) = leaves([x])
        value = function(module, leaf).tanh().sum()
        (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), leaf)[0])
    assert_equal(*results)


def test_second_derivatives_in_half_types():
    for dtype in DTYPES:
        logits = CASES["hna_loss"][1][0].to(dtype)
        grads = []
        for function, x in ((ops.hna_loss, logits), (reference.hna_loss, logits.double())):
            leaf = x.clone().requires_grad_()
            (grad,) = torch.autograd.grad(
                64 * function(leaf, TARGET.to(dtype).to(x.dtype)), leaf, create_graph=True
            )
            grads.append(torch.autograd.grad(grad.sum(), leaf)[0].double())
        error = (grads[0] - grads[1]).abs().max() / grads[1].abs().max()
        assert error < CPU[dtype]


def test_forward_mode(case):
    by_ops, by_reference, tensors = case
    tangents = directions(tensors)

    def dual(function):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(
                function(*map(forward_ad.make_dual, tensors, tangents))
            ).tangent

    expected = func.jvp(by_reference, tensors, tangents)[1]
    assert expected.abs() > 1e-6
    assert_equal(func.jvp(by_ops, tensors, tangents)[1], expected)
    assert_equal(dual(by_ops), expected)
    assert_equal(func.linearize(by_ops, *tensors)[1](*tangents), expected)


def test_transforms(case):
    by_ops, by_reference, tensors = case
    numbers = tuple(range(len(tensors)))
    for transform in (
        lambda f: func.grad(f, numbers)(*tensors),
        lambda f: func.vjp(f, *tensors)[1](torch.tensor(2.0, dtype=torch.float64)),
        lambda f: func.jacrev(f, numbers)(*tensors),
        lambda f: func.jacfwd(f, 0)(*tensors),
        lambda f: func.hessian(f)(*tensors),
        lambda f: func.jvp(func.grad(f), tensors, directions(tensors))[1],
        lambda f: func.vmap(func.grad(f))(*(torch.stack([t, 2 * t]) for t in tensors)),
    ):
        assert_equal(transform(by_ops), transform(by_reference))


def test_transforms_inside_compiled_functions(case):
    by_ops, by_reference, tensors = case
    for transform in (
        lambda f: lambda *t: func.grad(f)(*t),
        lambda f: lambda *t: func.jvp(f, t, t)[1],
        lambda f: lambda *t: func.vmap(f)(*(torch.stack([x, 2 * x]) for x in t)),
    ):
        torch.compiler.reset()
        compiled = torch.compile(transform(by_ops), fullgraph=True, backend="aot_eager")
        assert_equal(compiled(*tensors), transform(by_reference)(*tensors))


def test_gradients_of_samples():
    """One gradient a sample, of the weights of a layer before the operator."""
    x, labels = randn(4, 2, 5, 6, seed=7), target(4, 3, 5, 6)
    points, weight = randn(4, 27, 5, 6, seed=8), randn(3, 2, 3, 3, seed=9)

    def sample(module, weight, x, points, labels):
        logits = module.actpoint_aggregate(x[None], points[None], weight)
        return module.hna_loss(logits, labels[None])

    got, expected = (
        func.vmap(func.grad(lambda *t, m=module: sample(m, *t)), (None, 0, 0, 0))(
            weight, x, points, labels
        )
        for module in (ops, reference)
    )
    assert_equal(got, expected)
    assert_equal(got[2], func.grad(lambda w: sample(ops, w, x[2], points[2], labels[2]))(weight))


def test_backward_through_vmap():
    logits, labels = randn(4, 2, 5, 6), target(4, 2, 5, 6)
    grads = []
    for one in (func.vmap(lambda x, t: ops.hna_loss(x[None], t[None])), None):
        (leaf,) = leaves([logits])
        if one:
            losses = one(leaf, labels)
        else:
            pairs = zip(leaf, labels, strict=True)
            losses = torch.stack([ops.hna_loss(x[None], t[None]) for x, t in pairs])
        losses.square().sum().backward()
        grads.append(leaf.grad)
    assert_equal(*grads)


BARE = {
    "hna_loss": lambda x: torch.ops.ggnet.hna_loss(
        x, torch.zeros_like(x), 2.0, 7.0, 4.0, 1e-4, True
    )[0],
    "deform_conv2d": lambda x: torch.ops.ggnet.deform_conv2d(
        x, torch.zeros(1, 18, 5, 5), torch.ones(3, 2, 3, 3), None, 1, 1, 1, 1, 1, 1, None
    ),
    "actpoint_aggregate": lambda x: torch.ops.ggnet.actpoint_aggregate(
        x, torch.zeros(1, 27, 5, 5), torch.ones(3, 2, 3, 3)
    ),
}


@pytest.mark.parametrize("op", BARE)
def test_forward_mode_of_the_bare_operator_is_refused(op):
    """Torch itself gives a tangent of zero where no input needs a gradient."""
    x = torch.ones(1, 2, 5, 5)
    with pytest.raises(RuntimeError, match=f"torch.ops.ggnet.{op} has no forward mode"):
        func.jvp(BARE[op], (x,), (x,))
    with forward_ad.dual_level():
        BARE[op](x)  # no tangent, no refusal
        with pytest.raises(RuntimeError, match="no forward mode"):
            BARE[op](forward_ad.make_dual(x, x))


def test_forward_mode_in_an_autocast_region():
    features, points, weight = (t.float() for t in ACTPOINT[:3])
    with torch.autocast("cpu", torch.bfloat16):
        expected = ops.actpoint_aggregate(features, points, weight)
        got, tangent = func.jvp(
            lambda x: ops.actpoint_aggregate(x, points, weight), (features,), (features,)
        )
        losses = func.vmap(lambda x: ops.hna_loss(x[None], TARGET[:1].float()))(expected)
        one = ops.hna_loss(expected[:1], TARGET[:1].float())
    assert got.dtype == tangent.dtype == expected.dtype == torch.bfloat16
    assert (got - expected).abs().max() <= 2**-7 * expected.abs().max()
    assert (tangent - expected).abs().max() <= 2**-6 * expected.abs().max()  # linear in features
    assert losses.dtype == torch.float32
    assert losses[0].item() == pytest.approx(one.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hna_loss_gradient", (torch.tensor(1.0), *[torch.zeros(1, 1, 2, 2)] * 2,
                               torch.tensor(1, dtype=torch.int32), 2.0, 7.0, 4.0, 1e-4)),
        ("hna_loss_backward", (torch.tensor(1.0), torch.zeros(1, 1, 2, 2))),
        ("deform_conv2d_backward", (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2),
                                    torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 1, 1), None,
                                    1, 1, 0, 0, 1, 1, 31, False)),
    ],
)  # fmt: skip
def test_the_operator_of_a_derivative_refuses_its_own(name, arguments):
    arguments = [
        t.clone().requires_grad_() if isinstance(t, torch.Tensor) and t.is_floating_point() else t
        for t in arguments
    ]
    result = getattr(torch.ops.ggnet, name)(*arguments)
    result = result if isinstance(result, torch.Tensor) else result[0]
    with pytest.raises(RuntimeError, match=f"{name}.*create_graph"):
        result.sum().backward()


@pytest.mark.interpreted
def test_layers_before_the_loss():
    """The gradient penalty of a small network, whose logits nobody holds."""
    x, b = randn(2, 3, 6, 5), randn(2, 4, 1, 1, seed=1)
    labels = target(2, 2, 6, 5)
    results = []
    for module in (ops, reference):
        (a,) = leaves([randn(4, 3, 1, 1, seed=2)])
        value = module.hna_loss(F.conv2d(torch.tanh(F.conv2d(x, a)), b), labels)
        (grad,) = torch.autograd.grad(value, a, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), a)[0])
    assert_equal(*results)
