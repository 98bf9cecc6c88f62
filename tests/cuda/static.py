"""What the CUDA kernels became, read from the machine code of the compiled library, without a GPU.

    python tests/cuda/static.py

in an environment where the library was built with CUDA rewrites tests/budget/cuda.json, which
test_budget.py compares with. Numbers are of one compiler: they rank variants of a kernel, and show
what a change did to it; they are not times.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from ggnet import _build

LIBRARY = _build.ROOT / "ggnet" / _build.LIBRARY
BUDGET = _build.ROOT / "tests/budget/cuda.json"
BLOCK_THREADS = 256  # of the deformable kernels

# Multiprocessors, from the table "Technical Specifications per Compute Capability" of CUDA's
# programming guide: shared memory of one and of a block in bytes, threads.
DEVICES = {
    "sm_80": (164 << 10, 163 << 10, 2048),
    "sm_90": (228 << 10, 227 << 10, 2048),
    "sm_100": (228 << 10, 227 << 10, 2048),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture.

    stack: bytes of local memory a thread; spills: instructions that access it; shared: bytes known
    at compile time; hmma: tensor-core instructions; load128: 128-bit loads from global memory,
    asynchronous copies included; atomics: on global memory; float_atomics: those whose order
    changes the result; loop_cycles: issue cycles that the assembler scheduled for one pass of the
    loop with the most products, of one warp and without waiting for memory.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    hmma: int
    load128: int
    atomics: int
    float_atomics: int
    loop_cycles: int


def tool(name: str) -> str | None:
    """A tool of the CUDA toolkit: on PATH, or the copy that Triton's package carries."""
    found = shutil.which(name)
    if found is None:
        for entry in sys.path:
            copy = Path(entry) / "triton/backends/nvidia/bin" / name
            if copy.exists():
                return str(copy)
    return found


def _demangled(names: list[str]) -> list[str]:
    """`forward_kernel<__half, kHalf, 256, true>`: no namespace, no parameters."""
    listing = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    maths = {"0": "half", "1": "tf32", "2": "float", "3": "tf32x3"}
    short = []
    for name in listing:
        name = re.sub(r"^void ", "", name).rpartition("(")[0] if "(" in name else name
        name = re.sub(r"\(ggnet::deform::Math\)(\d)", lambda m: maths[m[1]], name)
        short.append(re.sub(r"ggnet::(\w+::)?|\((int|bool)\)", "", name))
    return short


def _instructions(listing: str) -> list[tuple[int, str, int]]:
    """(address, text, control bits) of each instruction."""
    found: list[tuple[int, str, int]] = []
    for line in listing.splitlines():
        if m := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?);\s*/\* 0x[0-9a-f]{16} \*/", line):
            found.append((int(m[1], 16), re.sub(r"^@!?U?P\w+\s+", "", m[2].strip()), 0))
        elif (m := re.match(r"\s+/\* 0x([0-9a-f]{16}) \*/", line)) and found:
            found[-1] = (*found[-1][:2], int(m[1], 16))
    return found


def _loop_cycles(instructions: list[tuple[int, str, int]]) -> int:
    """Scheduled issue cycles of the innermost loop with the most products; 0 without a loop."""
    best = (0, 0, 0)
    for address, text, _ in instructions:
        target = re.match(r"BRA\S* .*?(0x[0-9a-f]+)", text)
        if target is None or int(target[1], 16) >= address:
            continue
        body = [i for i in instructions if int(target[1], 16) <= i[0] <= address]
        products = sum(text.startswith(("HMMA", "HGMMA", "FFMA")) for _, text, _ in body)
        cycles = sum(control >> 41 & 15 for *_, control in body)
        best = max(best, (products, -len(body), cycles))  # of equal ones the shortest
    return best[2]


def measure(library: Path = LIBRARY) -> dict[str, dict[str, Kernel]]:
    """Architecture -> kernel -> what it became."""
    command = [tool("cuobjdump"), "-res-usage", "-sass", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage, code = {}, {}
    arch = ""
    for block in re.split(r"^(?=\s*Function\b|Fatbin elf code)", listing, flags=re.MULTILINE):
        if m := re.search(r"^arch = (sm_\d+)", block, re.MULTILINE):
            arch = m[1]
        if m := re.match(r"\s*Function (\S+):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+)", block):
            usage[arch, m[1]] = tuple(map(int, m.groups()[1:]))
        elif m := re.match(r"\s*Function : (\S+)", block):
            code[arch, m[1]] = _instructions(block)
    names = sorted({name for _, name in usage})
    short = dict(zip(names, _demangled(names), strict=True))
    result: dict[str, dict[str, Kernel]] = {}
    for (arch, name), (registers, stack, shared) in sorted(usage.items()):
        if short[name].startswith("hopper::") and arch != "sm_90":
            continue  # an empty body: nothing launches it there
        instructions = code[arch, name]
        texts = [text for _, text, _ in instructions]
        mix = Counter(text.split(" ")[0].split(".")[0] for text in texts)
        wide = re.compile(r"(LDG|LDGSTS)\S*\.128\b")
        atomic = re.compile(r"(RED|REDG|ATOM|ATOMG)\.")
        unordered = re.compile(atomic.pattern + r"\S*\.(B?F16|F32|F64)")
        result.setdefault(arch, {})[short[name]] = Kernel(
            registers=registers,
            stack=stack,
            spills=mix["STL"] + mix["LDL"],
            shared=shared,
            hmma=mix["HMMA"] + mix["HGMMA"],
            load128=sum(wide.match(text) is not None for text in texts),
            atomics=sum(atomic.match(text) is not None for text in texts),
            float_atomics=sum(unordered.match(text) is not None for text in texts),
            loop_cycles=_loop_cycles(instructions),
        )
    return result


def compiler() -> str:
    """Version of the nvcc that is here."""
    home = _build.cuda_home()
    return ".".join(map(str, _build.nvcc_version(home))) if home else "none"


def blocks_per_multiprocessor(kernel: Kernel, arch: str, dynamic_shared: int) -> int:
    """Blocks of a deformable kernel that run at once, as cuda_occupancy.h counts them."""
    shared_of_all, _, threads = DEVICES[arch]
    warps = BLOCK_THREADS // 32
    of_registers = 65536 // (-(-kernel.registers * 32 // 256) * 256 * warps)
    reserved = kernel.shared if arch in ("sm_90", "sm_100") and kernel.shared else 1024
    of_shared = shared_of_all // (-(-(dynamic_shared + reserved) // 128) * 128)
    return min(of_registers, of_shared, threads // BLOCK_THREADS)


def main() -> None:
    """Write the budget."""
    kernels = {
        arch: {name: asdict(kernel) for name, kernel in sorted(found.items())}
        for arch, found in measure().items()
        if arch in DEVICES
    }
    # One line a kernel, so that a change reads as one.
    lines = []
    for arch, found in kernels.items():
        rows = ",\n".join(
            f"   {json.dumps(name)}: {json.dumps(row)}" for name, row in found.items()
        )
        lines.append(f"  {json.dumps(arch)}: {{\n{rows}\n  }}")
    text = f'{{\n "nvcc": {json.dumps(compiler())},\n "kernels": {{\n' + ",\n".join(lines)
    BUDGET.write_text(text + "\n }\n}\n")
    print(f"{sum(map(len, kernels.values()))} kernels in {BUDGET}")


if __name__ == "__main__":
    main()
