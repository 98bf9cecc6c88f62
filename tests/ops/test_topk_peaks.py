import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_testing import DTYPES, assert_same_bits, generator, isas, randn, threads
from tolerances import CPU

from ggnet import ops, reference

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def assert_same_peaks(logits, k, kernel_size=3):
    got = ops.topk_peaks(logits, k, kernel_size)
    want = reference.topk_peaks(logits, k, kernel_size)
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    assert [t.dtype for t in got] == [exact, torch.int64, torch.int64, torch.int64]
    assert all(t.shape == (logits.shape[0], k) for t in got)
    assert torch.allclose(got[0], want[0], atol=CPU[exact], rtol=0)
    for name, one, other in zip(("channels", "ys", "xs"), got[1:], want[1:], strict=True):
        assert torch.equal(one, other), name


def flat(logits, peaks):
    """Flat indices (channel, y, x) of the peaks that there are."""
    scores, channels, ys, xs = (t[0] for t in peaks)
    index = (channels * logits.shape[2] + ys) * logits.shape[3] + xs
    return index[scores > 0].tolist()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 13, 9), (1, 1, 1, 1), (3, 7, 1, 20), (0, 2, 4, 4)])
def test_matches_the_reference(shape, dtype, layout):
    for seed in range(4):
        logits = randn(*shape, seed=seed, scale=3).to(dtype).contiguous(memory_format=layout)
        if seed % 2:
            logits = logits.round()  # ties and plateaus
        for k in (1, 7, 100):
            for kernel_size in (1, 3, 5):
                assert_same_peaks(logits, k, kernel_size)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_instruction_set(isa, layout, monkeypatch):
    monkeypatch.setenv("GGNET_CPU_ISA", isa)
    for dtype in DTYPES:
        logits = randn(2, 17, 65, 63).to(dtype).contiguous(memory_format=layout)
        assert_same_peaks(logits, 100)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_maps_that_defeat_a_threshold(layout):
    rising = torch.arange(3 * 40 * 41.0).view(1, 3, 40, 41)
    for logits in (rising, -rising, torch.zeros_like(rising), rising % 7, -(rising % 50)):
        assert_same_peaks(logits.contiguous(memory_format=layout), 50)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=24, max_size=24), st.integers(1, 30))
def test_ties_of_every_kind(values, k):
    logits = torch.tensor(values, dtype=torch.float32).view(1, 2, 3, 4)
    assert_same_peaks(logits, k)
    assert_same_peaks(logits.contiguous(memory_format=torch.channels_last), k)


@pytest.mark.interpreted
def test_a_plateau_keeps_every_cell_in_order():
    logits = torch.full((1, 2, 3, 3), -5.0)
    logits[0, 1, 1, :] = 2
    assert flat(logits, ops.topk_peaks(logits, 5))[:3] == [12, 13, 14]


@pytest.mark.interpreted
def test_equal_peaks_come_in_the_order_of_their_index():
    logits = torch.full((1, 3, 5, 5), -9.0)
    for channel, y, x in ((2, 0, 0), (0, 4, 4), (0, 2, 2), (1, 0, 4)):
        logits[0, channel, y, x] = 1
    for layout in LAYOUTS:
        peaks = ops.topk_peaks(logits.contiguous(memory_format=layout), 3)
        assert flat(logits, peaks) == [12, 24, 29]


@pytest.mark.interpreted
def test_a_saturated_sigmoid_makes_no_plateau():
    logits = torch.full((1, 1, 1, 4), -1.0)
    logits[0, 0, 0, 1:3] = torch.tensor([40.0, 30.0])  # both have a score of exactly 1
    scores, _, _, xs = ops.topk_peaks(logits, 2)
    assert scores[0].tolist() == [1, 0]
    assert xs[0].tolist() == [1, 0]


@pytest.mark.interpreted
def test_missing_peaks_are_zeros():
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[0, 0, 2, 3] = 3.0
    scores, channels, ys, xs = ops.topk_peaks(logits, 3, 9)
    assert scores[0, 0] == torch.tensor(3.0).sigmoid()
    assert (ys[0, 0], xs[0, 0]) == (2, 3)
    for rest in (scores, channels, ys, xs):
        assert not rest[:, 1:].any()


@pytest.mark.interpreted
def test_nan_and_minus_infinity_are_no_peaks():
    logits = torch.full((1, 2, 3, 6), -torch.inf)
    logits[0, 0, 1, 1] = torch.nan
    logits[0, 0, 1, 2] = -7.0  # its highest neighbor is NaN, which counts as -inf
    logits[0, 1, 1, 5] = torch.inf
    for layout in LAYOUTS:
        peaks = ops.topk_peaks(logits.contiguous(memory_format=layout), 4)
        assert flat(logits, peaks) == [29, 8]
        assert not any(t[0, 2:].any() for t in peaks)
    assert not ops.topk_peaks(torch.full_like(logits, torch.nan), 4)[0].any()


@pytest.mark.interpreted({"layout": torch.channels_last})
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_views_of_a_larger_tensor(layout):
    logits = randn(3, 5, 9, 8).float().contiguous(memory_format=layout)
    for view in (logits[:, :1], logits[::2], logits[:, :, 2:7, 1:6], logits.transpose(2, 3)):
        assert_same_peaks(view, 20)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_same_bits_for_any_number_of_threads(layout):
    logits = randn(2, 33, 65, 63).float().round().contiguous(memory_format=layout)
    assert_same_bits(lambda: ops.topk_peaks(logits, 100))


@pytest.mark.interpreted
@pytest.mark.parametrize("kernel_size", [5, 7, 21])
def test_wide_windows(kernel_size):
    assert_same_peaks(randn(1, 2, 7, 6, scale=3).float(), 20, kernel_size)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_peaks_at_the_edges_of_what_threads_share(count, layout):
    """Threads take parts of 16,384 cells; equal peaks on both sides of an edge, some beside one."""
    side = 128  # three parts, each a map where channels come first
    with threads(count):
        for edge in (side * side, 2 * side * side):
            for kernel_size in (1, 3):
                logits = torch.full((1, 3 * side * side), -9.0)
                for at in (0, edge - 3, edge - 1, edge, edge + 2, 3 * side * side - 1):
                    logits[0, at] = 2.0
                logits = logits.view(1, 3, side, side)
                if layout is torch.channels_last:  # the edges lie where memory has them
                    logits = logits.view(1, side, side, 3).permute(0, 3, 1, 2)
                for k in (1, 2, 3, 6):
                    assert_same_peaks(logits, k, kernel_size)
                    assert_same_peaks(-logits, k, kernel_size)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_more_peaks_than_wanted_within_a_block(k, layout):
    """Blocks of 64 cells, whose threshold rises while they are looked at."""
    for seed in range(20):
        random = torch.randint(0, 5, (1, 1, 4, 48), generator=generator(seed)).float()
        rising = torch.arange(192.0).view(1, 1, 4, 48).add(seed).remainder(7 + seed)
        for logits in (random, rising, -rising):
            channels = logits.view(1, 4, 6, 8)
            assert_same_peaks(logits.contiguous(memory_format=layout), k, 1)
            assert_same_peaks(channels.contiguous(memory_format=layout), k, 1)
            assert_same_peaks(channels.contiguous(memory_format=layout), k, 3)


@pytest.mark.interpreted({"dtype": torch.float32})
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_minus_zero_is_zero(dtype):
    """A tie: the smaller index first; neighbors of each other, both are peaks."""
    logits = torch.full((1, 2, 5, 5), -5.0, dtype=dtype)
    for channel, y, x, value in ((1, 0, 0, 0.0), (0, 4, 4, -0.0), (0, 1, 1, -0.0), (0, 1, 2, 0.0)):
        logits[0, channel, y, x] = value
    for layout in LAYOUTS:
        peaks = ops.topk_peaks(logits.contiguous(memory_format=layout), 3)
        assert flat(logits, peaks) == [6, 7, 24]
        assert peaks[0].tolist() == [[0.5] * 3]


def test_carries_no_gradient():
    logits = randn(1, 2, 5, 5).requires_grad_()
    assert not any(t.requires_grad for t in ops.topk_peaks(logits, 3))


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(3, 4, 4)}, ValueError, "logits .*4 dimensions"),
        ({"logits": torch.zeros(1, 3, 4, 4).int()}, TypeError, "logits .*int32"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"k": 1.5}, TypeError, "k is a float"),
        ({"kernel_size": 4}, ValueError, "kernel_size is 4.*odd"),
        ({"kernel_size": -1}, ValueError, "kernel_size is -1"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    with pytest.raises(error, match=message):
        ops.topk_peaks(**({"logits": torch.zeros(1, 3, 4, 4)} | change))
