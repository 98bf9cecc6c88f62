"""What Triton's compiler makes of every kernel and configuration, without a GPU.

    make triton-budget

rewrites tests/budget/triton.json, which test_machine_code.py compares with. Numbers are of one
version of Triton: they show what a change did to a kernel; they are not times.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import gathers
import launches
import machine_code
import triton
from machine_code import Code

BUDGET = Path(__file__).parents[1] / "budget/triton.json"


def survey(case: str, target: str) -> dict[str, Code]:
    """ "case | kernel | configuration" -> what became of it, for all that a case launches."""
    found = {}
    for launch in launches.launches(launches.CASES[case], target):
        for config in launch.configs:
            code = machine_code.measure(machine_code.build(launch, config, target))
            found[f"{case} | {launch.name} | {describe(config)}"] = code
    return found


def describe(config: triton.Config) -> str:
    """`64 pixels, 64 bytes, 8 warps, 2 stages`"""
    blocks = {"BLOCK_P": "pixels", "SLICE": "bytes"}
    parts = [
        f"{config.kwargs[name]} {unit}" for name, unit in blocks.items() if name in config.kwargs
    ]
    parts.append(f"{config.num_warps} warps")
    if config.kwargs:
        parts.append(f"{config.num_stages} stages")
    return ", ".join(parts)


def main() -> None:
    """Write the budget."""
    kernels: dict[str, dict[str, Code]] = {}
    with ProcessPoolExecutor() as pool:
        for target in machine_code.TARGETS:
            kernels[target] = {}
            for found in pool.map(survey, launches.CASES, [target] * len(launches.CASES)):
                kernels[target].update(found)
    # One line a kernel, so that a change reads as one.
    sections = []
    for target, found in kernels.items():
        rows = [
            f"   {json.dumps(name)}: {json.dumps(asdict(code))}" for name, code in found.items()
        ]
        sections.append(f"  {json.dumps(target)}: {{\n" + ",\n".join(rows) + "\n  }")
    BUDGET.write_text(
        f'{{\n "triton": {json.dumps(triton.__version__)},\n'
        f' "gathers": {json.dumps(gathers.counted())},\n'
        ' "kernels": {\n' + ",\n".join(sections) + "\n }\n}\n"
    )
    print(f"{sum(map(len, kernels.values()))} kernels in {BUDGET}")


if __name__ == "__main__":
    main()
