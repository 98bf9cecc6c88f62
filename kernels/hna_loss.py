"""hna_loss in Triton: value and gradient in one pass over the logits.

N is needed before the first gradient, so the positives are counted first (the target alone is
read). Blocks' sums are added in a fixed order: no atomics, results repeat bit by bit.
"""

import torch
import triton
import triton.language as tl
from ggnet.kernels.common import NAMESPACE, operator, wrap_triton
from torch import Tensor

from ggnet.ops import _layout
from ggnet.ops.hna_loss import register

BLOCK = 1024
MAX_BLOCKS = 2048  # each program takes the blocks of its number modulo this


@triton.jit
def count_kernel(target, counts, size, blocks, BLOCK: tl.constexpr):
    # Next to 1 a float64 is not 1, which it would be in float32.
    ACC: tl.constexpr = tl.float64 if target.dtype.element_ty == tl.float64 else tl.float32
    program = tl.program_id(0)
    count = tl.zeros((BLOCK,), tl.int32)
    for block in range(program, blocks, tl.num_programs(0)):
        i = block * BLOCK + tl.arange(0, BLOCK)
        m = tl.load(target + i, mask=i < size, other=0.0).to(ACC)
        count += (m == 1.0).to(tl.int32)
    tl.store(counts + program, tl.sum(count, axis=0))


@triton.jit
def power(x, exponent):
    """x ** exponent for x > 0."""
    return tl.exp2(exponent * tl.log2(x))


@triton.jit
def loss_kernel(
    logits,
    target,
    counts,
    grad_loss,
    sums,
    grad,
    size,
    blocks,
    programs,
    ALPHA: tl.constexpr,  # constants, as arguments would be rounded to float32
    BETA: tl.constexpr,
    GAMMA: tl.constexpr,
    EPS: tl.constexpr,
    WITH_SUMS: tl.constexpr,
    WITH_GRAD: tl.constexpr,  # 1: the gradient of the loss, 2: times *grad_loss
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,  # the power of two above `programs`
):
    ACC: tl.constexpr = grad_loss.dtype.element_ty
    program = tl.program_id(0)
    one = tl.arange(0, PROGRAMS)
    n = tl.sum(tl.load(counts + one, mask=one < programs, other=0), axis=0)
    n = tl.maximum(n, 1).to(ACC)
    alpha = tl.full((), ALPHA, ACC)
    beta = tl.full((), BETA, ACC)
    gamma = tl.full((), GAMMA, ACC)
    low = tl.full((), EPS, ACC)
    total = tl.zeros((BLOCK,), ACC)
    for block in range(program, blocks, tl.num_programs(0)):
        i = block * BLOCK + tl.arange(0, BLOCK)
        z = tl.load(logits + i, mask=i < size, other=0.0).to(ACC)
        m = tl.load(target + i, mask=i < size, other=0.0).to(ACC)
        # p and q = 1 - p, each with its own relative accuracy.
        e = tl.exp(-tl.abs(z))
        larger = 1.0 / (1.0 + e)
        smaller = e * larger
        p = tl.where(z < 0, smaller, larger)
        q = tl.where(z < 0, larger, smaller)
        free = (p >= low) & (q >= low)  # NaN is not
        # log of the larger one is -log1p(e), by log1p(e) = log(w) e / (w - 1), w = 1 + e rounded.
        w = 1.0 + e
        log_larger = -tl.where(w == 1.0, e, tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0)))
        log_smaller = log_larger - tl.abs(z)
        log_p = tl.where(z < 0, log_smaller, log_larger)
        log_q = tl.where(z < 0, log_larger, log_smaller)
        # Where the clamp is active, its bounds; NaN stays.
        at_low = p < low
        at_high = q < low
        log_low = tl.log(low)
        log_high = tl.log(1.0 - low)
        log_p = tl.where(at_low, log_low, tl.where(at_high, log_high, log_p))
        log_q = tl.where(at_low, log_high, tl.where(at_high, log_low, log_q))
        p = tl.where(at_low, low, tl.where(at_high, 1.0 - low, p))
        q = tl.where(at_low, 1.0 - low, tl.where(at_high, low, q))

        positive = m == 1.0
        rest = tl.where(positive, 1.0, 1.0 - m)
        weight = power(rest, tl.where(m == -1.0, beta, gamma))
        q_alpha = power(q, alpha)
        p_alpha = weight * power(p, alpha)
        term = tl.where(positive, q_alpha * log_p, p_alpha * log_q)
        total -= tl.where(i < size, term, 0.0)
        if WITH_GRAD:
            slope = tl.where(
                positive,
                q_alpha * (alpha * p * log_p - q),
                p_alpha * (p - alpha * q * log_q),
            )
            slope = tl.where(free | (slope != slope), slope / n, 0.0)
            if WITH_GRAD == 2:
                slope *= tl.load(grad_loss)
            tl.store(grad + i, slope.to(grad.dtype.element_ty), mask=i < size)
    if WITH_SUMS:
        tl.store(sums + program, tl.sum(total, axis=0) / n)


@triton.jit
def total_kernel(sums, counts, loss, positives, programs, PROGRAMS: tl.constexpr):
    one = tl.arange(0, PROGRAMS)
    tl.store(loss, tl.sum(tl.load(sums + one, mask=one < programs, other=0.0), axis=0))
    tl.store(positives, tl.sum(tl.load(counts + one, mask=one < programs, other=0), axis=0))


@triton.jit
def scale_kernel(grad, grad_loss, out, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ACC: tl.constexpr = grad_loss.dtype.element_ty
    scaled = tl.load(grad + i, mask=i < size, other=0.0).to(ACC) * tl.load(grad_loss)
    tl.store(out + i, scaled.to(out.dtype.element_ty), mask=i < size)


@operator("hna_loss")
def hna_loss(
    logits: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    gamma: float,
    eps: float,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size = logits.numel()
    grad = _layout.gradient(logits, with_grad)
    positives = _layout.empty((), logits, dtype=torch.int32)
    loss = _layout.empty((), logits, dtype=torch.promote_types(logits.dtype, torch.float32))
    blocks, programs, padded = _grid(size)
    counts = torch.empty((programs,), dtype=torch.int32, device=logits.device)
    sums = torch.empty((programs,), dtype=loss.dtype, device=logits.device)
    logits, target = _lines(logits, target)
    wrap_triton(count_kernel)[(programs,)](target, counts, size, blocks, BLOCK=BLOCK)
    wrap_triton(loss_kernel)[(programs,)](
        *(logits, target, counts, loss, sums, grad, size, blocks, programs),
        ALPHA=alpha,
        BETA=beta,
        GAMMA=gamma,
        EPS=eps,
        WITH_SUMS=True,
        WITH_GRAD=int(with_grad),
        BLOCK=BLOCK,
        PROGRAMS=padded,
    )
    wrap_triton(total_kernel)[(1,)](sums, counts, loss, positives, programs, PROGRAMS=padded)
    return loss, grad, positives


@operator("hna_loss_gradient")
def hna_loss_gradient(
    grad_loss: Tensor,
    logits: Tensor,
    target: Tensor,
    positives: Tensor,
    alpha: float,
    beta: float,
    gamma: float,
    eps: float,
) -> Tensor:
    size = logits.numel()
    grad = _layout.gradient(logits, True)
    grad_loss = grad_loss.to(torch.promote_types(logits.dtype, torch.float32))
    blocks, programs, _ = _grid(size)
    logits, target = _lines(logits, target)
    wrap_triton(loss_kernel)[(programs,)](
        *(logits, target, positives, grad_loss, grad, grad, size, blocks, 1),
        ALPHA=alpha,
        BETA=beta,
        GAMMA=gamma,
        EPS=eps,
        WITH_SUMS=False,
        WITH_GRAD=2,
        BLOCK=BLOCK,
        PROGRAMS=1,
    )
    return grad


def _grid(size: int) -> tuple[int, int, int]:
    """Blocks of cells, programs that share them, and the power of two above."""
    blocks = triton.cdiv(size, BLOCK)
    programs = max(1, min(blocks, MAX_BLOCKS))
    return blocks, programs, triton.next_power_of_2(programs)


def _lines(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cells in the order of memory: one line of numbers."""
    format = _layout.memory_format(logits)
    return logits.contiguous(memory_format=format), target.contiguous(memory_format=format)


def scale(grad_loss: Tensor, grad: Tensor, out: Tensor) -> None:
    size = grad.numel()
    if size > 0:
        wrap_triton(scale_kernel)[(triton.cdiv(size, BLOCK),)](
            grad, grad_loss, out, size, BLOCK=BLOCK
        )


@operator("hna_loss_backward")
def hna_loss_backward(grad_loss: Tensor, grad: Tensor) -> Tensor:
    scaled = _layout.gradient(grad, True)
    scale(grad_loss, grad.contiguous(memory_format=_layout.memory_format(grad)), scaled)
    return scaled


@operator("hna_loss_backward_", mutates=("grad",))
def hna_loss_backward_(grad_loss: Tensor, grad: Tensor) -> None:
    scale(grad_loss, grad, grad)


register(NAMESPACE)
