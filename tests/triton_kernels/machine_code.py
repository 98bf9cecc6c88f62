"""Compiles a launch for a GPU that is not here, and reads what became of it."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from launches import Launch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

NVIDIA = ("sm_80", "sm_90", "sm_100")
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Bytes that a block may have: CUDA's programming guide, CDNA 3's instruction set.
SHARED_LIMIT = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Code:
    """registers: of a thread; spills: instructions that touch local memory, for AMD registers;
    shared: bytes; warpgroup: of the tensor cores' instructions those of a warpgroup at once, which
    read shared memory themselves (from Hopper on); load128: 128-bit loads from global memory,
    asynchronous copies included; atomics: instructions; float_atomics: those whose order changes
    the result.
    """

    registers: int
    spills: int
    shared: int
    tensor_core: int
    warpgroup: int
    load128: int
    atomics: int
    float_atomics: int


def build(launch: Launch, config: triton.Config, target: str) -> CompiledKernel:
    """Specialized for its arguments as Triton's JIT would."""
    signature, constants, attributes = {}, {}, {}
    values = launch.arguments | config.kwargs
    for i, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, values[parameter.name]
        aligned = False
        if isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
            aligned = value.storage_offset() * value.itemsize % 16 == 0
        elif parameter.is_constexpr or value == 1:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            aligned = value % 16 == 0
        if aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return triton.compile(source, target=TARGETS[target], options=options)


def measure(kernel: CompiledKernel) -> Code:
    """Of a kernel compiled for NVIDIA or AMD."""
    return _of_amd(kernel) if "amdgcn" in kernel.asm else _of_nvidia(kernel)


def _of_nvidia(kernel: CompiledKernel) -> Code:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        text = _run("nvdisasm", "-c", file.name)

    def count(pattern: str) -> int:
        return len(re.findall(pattern, text))

    atomic = r"\b(?:RED|REDG|ATOM|ATOMG)\."
    return Code(
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        spills=count(r"\b(?:LDL|STL)\b"),
        shared=kernel.metadata.shared,
        tensor_core=count(r"\b(?:HMMA|HGMMA|UTC[A-Z]*MMA)\b"),
        warpgroup=count(r"\b(?:HGMMA|UTC[A-Z]*MMA)\b"),
        load128=count(r"\b(?:LDG|LDGSTS)\.E[.A-Z]*\.128\b"),
        atomics=count(atomic),
        float_atomics=count(atomic + r"\S*\.(?:B?F16|F32|F64)"),
    )


def _of_amd(kernel: CompiledKernel) -> Code:
    text = kernel.asm["amdgcn"]

    def value(name: str) -> int:
        return int(re.search(rf"\.{name}:\s*(\d+)", text)[1])

    def count(pattern: str) -> int:
        return len(re.findall(pattern, text))

    return Code(
        registers=value("vgpr_count"),
        spills=value("vgpr_spill_count") + value("sgpr_spill_count"),
        shared=kernel.metadata.shared,
        tensor_core=count(r"\bv_mfma_"),
        warpgroup=0,
        load128=count(r"\b(?:global|buffer)_load_dwordx4\b"),
        atomics=count(r"\b(?:global|buffer)_atomic_"),
        float_atomics=count(r"\b(?:global|buffer)_atomic_\w*_b?f(?:16|32|64)\b"),
    )


def _run(tool: str, *arguments: str) -> str:
    command = [TOOLS / tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
