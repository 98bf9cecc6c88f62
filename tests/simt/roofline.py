"""What the aggregation's forward kernel moves and multiplies, counted by the emulator, and the
times that this allows on GPUs that nobody asked.

    python tests/simt/roofline.py

rewrites the tables of docs/roofline.md, which test_roofline.py compares with. One block of 64
pixels is executed in the traced variant; a map of 128 x 128 has 256 of them, all alike but at the
borders.
"""

from dataclasses import dataclass

import emulator
import test_actpoint_kernels as kernels
from arrays import to_array

from ggnet._build import ROOT

DOCUMENT = ROOT / "docs/roofline.md"
START, END = "<!-- tests/simt/roofline.py -->\n", "<!-- end -->\n"
CHANNELS = OUTPUTS = 256
POINTS, BLOCK, SIZE = 25, 64, 128
PIXELS = SIZE * SIZE
BLOCKS = PIXELS // BLOCK


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
    wavefronts: int  # of shared memory, at most 128 bytes each
    ideal_wavefronts: int  # without a bank conflict


def count(simt, math: str) -> Count:
    size = 2 if math in ("float16", "bfloat16") else 4
    # No padding: every point of the 8 x 8 outputs lies inside, as nearly all of a large map do.
    kernels.CASES["roofline"] = (1, CHANNELS, 12, 12, OUTPUTS, 5, (1, 0, 1), 0.1)
    problem = kernels.Problem("roofline", math, seed=0, base=False)
    del kernels.CASES["roofline"]
    dtype = kernels.dtype_of(math)
    exact, _ = problem.exact()
    simt.configure()
    simt.actpoint_forward(
        **problem.inputs(), weight=to_array(problem.weight, dtype),
        bias=to_array(problem.bias, dtype), out=problem.empty(exact.permute(0, 2, 3, 1)), relu=True,
    )  # fmt: skip
    c = simt.counters()
    weights = OUTPUTS * CHANNELS * POINTS * size
    corners, points = BLOCK * POINTS * 4 * CHANNELS * size, BLOCK * POINTS * 3 * size
    return Count(
        flops=2 * c["mma_macs"] * BLOCKS,
        compulsory=PIXELS * (CHANNELS + OUTPUTS + 3 * POINTS) * size + weights,
        loaded=c["load_bytes"] * BLOCKS,
        one_gather=(corners + points + weights) * BLOCKS,
        sectors=c["load_sectors"] * BLOCKS,
        wavefronts=c["shared_wavefronts"] * BLOCKS,
        ideal_wavefronts=c["shared_phases"] * BLOCKS,
    )


def tables(simt) -> str:
    counts = {"bfloat16": count(simt, "bfloat16"), "float32 in TF32": count(simt, "tf32")}
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
            times = device.times(counted, tf32="TF32" in kind)
            cells = " | ".join(f"{time:.0f}" for time in times.values())
            lines.append(f"| {device.name}, {kind} | {cells} |")
    return "\n".join(lines) + "\n"


def document(simt) -> str:
    """docs/roofline.md with the tables as they are now."""
    before, rest = DOCUMENT.read_text().split(START)
    return before + START + tables(simt) + END + rest.split(END)[1]


if __name__ == "__main__":
    DOCUMENT.write_text(document(emulator.load("traced")))
