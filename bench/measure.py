"""Fair timing on a noisy machine, and memory in a process of its own."""

import contextlib
import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


def on_gpu() -> bool:
    """Whether this run measures a GPU: then torch's default device is one."""
    return torch.get_default_device().type == "cuda"


clock = time.perf_counter


def count_cpu_time() -> None:
    """Measure the CPU time of the process from now on, for a machine that others use as well.

    Waiting is not counted, so it says something with one thread only.
    """
    global clock
    clock = time.process_time


def now() -> float:
    """Seconds; what the GPU was given to do before is done."""
    if on_gpu():
        torch.cuda.synchronize()
    return clock()


@contextlib.contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Torch's deterministic algorithms, where wanted."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def step(call: Callable, leaves: list[Tensor], mode: str) -> Callable[[], float]:
    """One measurement of `mode` (forward, backward, full, deterministic) in seconds."""

    def forward() -> float:
        start = now()
        call()
        return now() - start

    def with_backward() -> float:
        for leaf in leaves:
            leaf.grad = None
        start = now()
        out = call()
        middle = now()
        seed = torch.ones_like(out) if out.dim() else None
        begin = now() if mode == "backward" else start + (now() - middle)
        with reproducible(mode == "deterministic"):
            out.backward(seed)
            return now() - begin

    return forward if mode == "forward" else with_backward


def interleave(
    steps: dict[str, Callable[[], float]], repeats: int, budget: float
) -> dict[str, list[float]]:
    """Rounds in which every provider runs once, so that all see the same noise.

    Stops after `repeats` rounds, or once `budget` seconds are spent and three rounds are done.
    """
    for run in steps.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    for done in range(repeats):
        if done >= 3 and time.perf_counter() - start > budget:
            break
        for name, run in steps.items():
            times[name].append(run())
    return times


def kernels(call: Callable, leaves: list[Tensor], mode: str) -> Callable[[], float]:
    """One measurement of the device's work alone, in seconds: the replay of a CUDA graph.

    Raises:
        RuntimeError: the call cannot be captured, or launches something outside of the graph.
    """
    # No autograd graph may live on: its leaves would accumulate on another stream than captured.
    expected = _first(call()).detach()
    seed = torch.ones_like(expected)

    def forward() -> Tensor:
        return _first(call()).detach()

    def work() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        result = call()
        with reproducible(mode == "deterministic"):
            result.backward(seed)
        return result.detach()

    graph, result = _captured(forward)
    graph.replay()
    # Some launch on the default stream, whatever stream is current, and only print that it failed.
    scale = expected.abs().max().item()
    if not torch.allclose(result.double(), expected.double(), rtol=0.0, atol=0.05 * scale):
        raise RuntimeError("it computes something else there")
    if mode != "forward":
        graph, result = _captured(work)
        graph.replay()
    return Replay(graph, (call, seed))


@dataclass
class Replay:
    """One replay of a graph, in seconds.

    `reads` is what the graph finds outside of it; it must live as long, as the next capture gives
    free memory back to the device.
    """

    graph: torch.cuda.CUDAGraph
    reads: tuple

    def __call__(self) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def _captured(work: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


def with_threads(run: Callable[[], float], count: int) -> Callable[[], float]:
    """The same measurement with another number of threads."""

    def measured() -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return measured


def median(values: list[float]) -> float:
    return statistics.median(values)


def peak_memory(call: Callable[[], float]) -> int:
    """Bytes that a call needs at most beyond what is there, after one call before it.

    On a GPU what torch allocates; else by how much the process grows (Linux). The first call loads
    libraries and creates buffers that stay; allocators are asked to give their free memory back,
    then the high-water mark is reset.
    """
    call()
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return max(0, _status("VmHWM") - before)


def resident() -> int:
    """Bytes of memory that the process holds, what it could give back not counted (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def ceilings(repeats: int = 5) -> dict[str, float]:
    """What this machine can do at best: GFLOP/s of a large product, GB/s of a large copy."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)
    runs = {
        "gemm": step(lambda: a @ b, [], "forward"),
        "copy": step(lambda: target.copy_(source), [], "forward"),
    }
    times = interleave(runs, repeats, budget=20)
    return {
        "gemm_gflops": 2 * 2048**3 / median(times["gemm"]) / 1e9,
        "copy_gbs": 2 * source.numel() * 4 / median(times["copy"]) / 1e9,
    }
