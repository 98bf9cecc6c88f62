"""What the aggregation's kernels move and multiply, counted by the emulator, and the times that the
forward's numbers allow on GPUs that nobody asked.

    make simt-budget

rewrites the tables of docs/roofline.md, which test_roofline.py compares with. One block is executed
in the traced variant; a map of 128 x 128 has 256 of 64 pixels, or 128 of Hopper's 128 pixels, all
alike but at the borders.
"""

from dataclasses import dataclass

import emulator
import footprint
import test_actpoint_kernels as kernels
from arrays import to_array

from ggnet._build import ROOT

DOCUMENT = ROOT / "docs/roofline.md"
START, END = "<!-- tests/simt/roofline.py: {} -->\n", "<!-- end -->\n"
CHANNELS = OUTPUTS = 256
POINTS, SIZE = 25, 128
PIXELS = SIZE * SIZE
PASS = 128  # bytes that shared memory passes a clock
HOPPER = "bfloat16, Hopper's kernel"
KINDS = {"bfloat16": "bfloat16", HOPPER: "bfloat16", "float32 in TF32": "tf32"}  # -> arithmetic
# Of which footprint.runs knows the names.
BACKWARDS = {"bfloat16": None, "bfloat16, sums in blocks": "windowed", HOPPER: "hopper"}


@dataclass(frozen=True)
class Device:
    """Rates by the vendor's documents; L2 as A100's whitepaper gives it, a clock, for both."""

    name: str
    multiprocessors: int
    clock: float  # Hz, boost
    half_flops: float  # dense, a second
    tf32_flops: float
    memory: float  # bytes a second
    l2: float = 5120.0  # bytes a clock

    def times(self, count: "Count", tf32: bool) -> dict[str, float]:
        """Microseconds that each resource is busy at its full rate."""
        return {
            "tensor cores": count.flops / (self.tf32_flops if tf32 else self.half_flops) * 1e6,
            "shared memory": count.wavefronts / self.multiprocessors / self.clock * 1e6,
            "device memory": count.compulsory / self.memory * 1e6,
            "L2 if nothing hits L1": count.loaded / (self.l2 * self.clock) * 1e6,
        }


A100 = Device("A100 SXM 80 GB", 108, 1.410e9, 312e12, 156e12, 2.039e12)
H100 = Device("H100 SXM", 132, 1.830e9, 989.4e12, 494.7e12, 3.35e12)


@dataclass(frozen=True)
class Count:
    """Of the forward at batch 1."""

    flops: int
    compulsory: int  # bytes of each tensor, once
    loaded: int  # bytes that multiprocessors ask L1 for
    one_gather: int  # the same if samples, points and weights were each read once a block
    sectors: int  # of 32 bytes
    wavefronts: int  # of shared memory, at most PASS bytes each
    ideal_wavefronts: int  # without a bank conflict


def one_block(math: str, hopper: bool) -> tuple[kernels.Problem, int]:
    """A problem of one block's pixels, and how many such blocks a map has."""
    rows, columns = 8, 16 if hopper else 8
    # No padding: every point of the outputs lies inside, as nearly all of a large map do.
    shape = (1, CHANNELS, rows + 4, columns + 4, OUTPUTS, 5, (1, 0, 1), 0.1)
    kernels.CASES["roofline"] = shape
    problem = kernels.Problem("roofline", math, seed=0, base=False)
    del kernels.CASES["roofline"]
    return problem, PIXELS // (rows * columns)


def passes(counters: dict, wavefronts: str, hopper: bool) -> int:
    """Of shared memory. What wgmma reads and bulk copies write is no access of a thread, and has
    no conflicts."""
    engines = counters["shared_async_bytes"] + counters["async_bytes"]
    return counters[wavefronts] + (engines // PASS if hopper else 0)


def count(simt, kind: str) -> Count:
    math, hopper = KINDS[kind], kind == HOPPER
    size = 2 if math == "bfloat16" else 4
    problem, blocks = one_block(math, hopper)
    dtype = kernels.dtype_of(math)
    exact, _ = problem.exact()
    simt.configure()
    simt.actpoint_forward(
        **problem.inputs(), weight=to_array(problem.weight, dtype), relu=True, hopper=hopper,
        bias=to_array(problem.bias, dtype), out=problem.empty(exact.permute(0, 2, 3, 1)),
    )  # fmt: skip
    c = simt.counters()
    block = PIXELS // blocks
    weights = OUTPUTS * CHANNELS * POINTS * size
    corners, points = block * POINTS * 4 * CHANNELS * size, block * POINTS * 3 * size
    return Count(
        flops=2 * c["mma_macs"] * blocks,
        compulsory=PIXELS * (CHANNELS + OUTPUTS + 3 * POINTS) * size + weights,
        loaded=c["load_bytes"] * blocks,
        one_gather=(corners + points + weights) * blocks,
        sectors=c["load_sectors"] * blocks,
        wavefronts=passes(c, "shared_wavefronts", hopper) * blocks,
        ideal_wavefronts=passes(c, "shared_phases", hopper) * blocks,
    )


def backward_table(simt) -> str:
    """Of the gradients of features and points."""
    found = {}
    for kind, which in BACKWARDS.items():
        problem, blocks = one_block("bfloat16", kind == HOPPER)
        simt.configure(shared_limit=227 << 10)
        footprint.runs(simt, problem, which)["backward_kernel"]()
        c = simt.counters()
        found[kind] = (
            f"{2 * c['mma_macs'] * blocks / 1e9:.1f} G",
            f"{c['load_bytes'] * blocks / 1e6:.0f} MB",
            f"{passes(c, 'shared_wavefronts', kind == HOPPER) * blocks / 1e6:.1f} M",
            f"{c['atomic_bytes'] * blocks / 1e6:.0f} MB",
        )
    names = (
        "operations",
        "bytes that the multiprocessors load",
        "passes of shared memory",
        "bytes added to global memory by atomics",
    )
    lines = ["|  | " + " | ".join(found) + " |", "|---|" + "--:|" * len(found)]
    for name, row in zip(names, zip(*found.values(), strict=True), strict=True):
        lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def tables(simt) -> str:
    counts = {kind: count(simt, kind) for kind in KINDS}
    lines = ["|  | " + " | ".join(counts) + " |", "|---|" + "--:|" * len(counts)]
    rows = {
        "operations": lambda c: f"{c.flops / 1e9:.1f} G",
        "compulsory bytes of device memory": lambda c: f"{c.compulsory / 1e6:.1f} MB",
        "bytes that the multiprocessors load": lambda c: f"{c.loaded / 1e6:.0f} MB",
        "of what one gather a sample needs": lambda c: f"{c.loaded / c.one_gather:.3f}",
        "bytes of the 32-byte sectors touched, by bytes loaded": lambda c: (
            f"{32 * c.sectors / c.loaded:.3f}"
        ),
        "passes of shared memory": lambda c: f"{c.wavefronts / 1e6:.1f} M",
        "of what they would be without bank conflicts": lambda c: (
            f"{c.wavefronts / c.ideal_wavefronts:.3f}"
        ),
    }
    lines += [f"| {name} | {' | '.join(map(row, counts.values()))} |" for name, row in rows.items()]
    resources = list(A100.times(Count(0, 0, 0, 0, 0, 0, 0), tf32=False))
    lines += ["", "| derived, not measured: µs | " + " | ".join(resources) + " |"]
    lines += ["|---|" + "--:|" * len(resources)]
    for device in (A100, H100):
        for kind, counted in counts.items():
            if kind == HOPPER and device is not H100:
                continue
            times = device.times(counted, tf32="TF32" in kind)
            cells = " | ".join(f"{time:.0f}" for time in times.values())
            lines.append(f"| {device.name}, {kind} | {cells} |")
    return "\n".join(lines) + "\n"


def document(simt) -> str:
    """docs/roofline.md with the tables as they are now."""
    text = DOCUMENT.read_text()
    for part, table in (("forward", tables(simt)), ("backward", backward_table(simt))):
        before, rest = text.split(START.format(part))
        text = before + START.format(part) + table + END + rest.split(END, 1)[1]
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(document(emulator.load("traced")))
