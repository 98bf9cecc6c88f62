"""The table of docs/kernels.md, from the budgets beside this file.

    python tests/budget/table.py

rewrites it. The budgets come from `tests/cuda/build.sh budget`, `make simt-budget`
and `make triton-budget`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/kernels.md"
BEGIN, END = "<!-- tests/budget/table.py -->\n", "<!-- end -->\n"
ARCH = "sm_90"
RESERVED = 1024  # of shared memory by CUDA itself, in every block that has some
HEADER = (
    *("operator, type", "kernel", "backend", "registers", "shared memory", "spills"),
    *("tensor-core instructions", "gathers per sample", "atomics", "same bits every run"),
)


def _deformable(parameters: str) -> tuple[str, ...]:
    others = (f"{k}_kernel<{parameters}>" for k in ("backward", "weight_grad"))
    return f"forward_kernel<{parameters}, false>", *others  # by one section of channels


# What CUDA launches for each case of Triton's budget; and on Hopper, by kernels of its own.
CUDA = {
    "actpoint_aggregate, bfloat16, Hopper": tuple(
        f"hopper::{kernel}_kernel<__nv_bfloat16, 256>"
        for kernel in ("forward", "backward", "weight_grad")
    ),
    "actpoint_aggregate, bfloat16, sums in blocks": (
        "windowed::backward_kernel<__nv_bfloat16, 256>",
    ),
    "actpoint_aggregate, bfloat16": _deformable("__nv_bfloat16, half, 256, true"),
    "actpoint_aggregate, float32": _deformable("float, tf32x3, 256, true"),
    "actpoint_aggregate, float32 in TF32": _deformable("float, tf32, 256, true"),
    "deform_conv2d, bfloat16": _deformable("__nv_bfloat16, half, 64, true"),
    "hna_loss, float32": (
        "count_positives_kernel<float>",
        "terms_kernel<float, float, true>",
        "sum_kernel",
        "scale_kernel<float>",
    ),
    "hna_loss, bfloat16": ("terms_kernel<__nv_bfloat16, float, true>",),
    "draw_heatmaps": ("stamp_kernel<true>", "stamp_kernel<false>"),
    "topk_peaks, bfloat16": ("scan_kernel<__nv_bfloat16>", "select_kernel"),
    "match_points, float32": ("match_kernel<(MatchRule)0, float>",),
}


def table() -> str:
    """In Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *_rows()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows() -> Iterator[tuple[str, ...]]:
    cuda = _load("cuda")["kernels"][ARCH]
    emulated = _load("emulated")
    triton = _load("triton")
    by_triton: dict[tuple[str, str], list[dict]] = {}
    for label, code in triton["kernels"][ARCH].items():
        case, kernel, _ = label.split(" | ")
        by_triton.setdefault((case, kernel), []).append(code)
    ordered = any(  # a variant whose sums are integers
        case.endswith("deterministic") and not any(code["float_atomics"] for code in codes)
        for (case, kernel), codes in by_triton.items()
        if kernel == "backward_kernel"
    )
    for case, names in CUDA.items():
        for name in names:
            code = cuda[name]
            kernel = name.partition("<")[0].rpartition("::")[2]
            executed = emulated.get(case, {}).get(kernel)
            shared = executed["shared"] if executed else max(code["shared"] - RESERVED, 0)
            numbers = {**code, "shared": shared, "tensor_core": code["hmma"]}
            gathers = executed and executed["gathers"]
            both = code["atomics"] > code["float_atomics"]  # sums of floats, and of integers
            shown = name if name.startswith(("stamp", "match")) else kernel
            yield _row(case, shown, "cuda", [numbers], gathers, both)
        for (other, kernel), codes in by_triton.items():
            if other == case:
                gathers = triton["gathers"].get(kernel)
                yield _row(case, kernel, "triton", codes, gathers, ordered)


def _row(
    case: str, kernel: str, backend: str, codes: list[dict], gathers: float | None, ordered: bool
) -> tuple[str, ...]:
    def span(key: str) -> str:
        low, high = (f(code[key] for code in codes) for f in (min, max))
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    exact = "yes" if span("float_atomics") == "0" else "on request" if ordered else "no"
    numbers = (span("registers"), span("shared"), span("spills"), span("tensor_core"))
    gathered = "" if gathers is None else f"{gathers:g}"
    return case, f"`{kernel}`", backend, *numbers, gathered, span("atomics"), exact


def _load(name: str) -> dict:
    return json.loads((HERE / f"{name}.json").read_text())


def written() -> str:
    """The table that the page holds."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    """Put the table into the page."""
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    PAGE.write_text(before + begin + table() + end + after)


if __name__ == "__main__":
    main()
