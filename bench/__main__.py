"""Time and memory of the operators and their peers, in one run.

    python -m bench                                    everything, as in the README
    python -m bench --op actpoint --mode full --dtype float32 --provider ggnet torchvision

Peers that are not installed are skipped, with the reason. Results go to a JSON file with the
machine's description; `--report FILE` prints one again.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench import measure
from bench.cases import CASES, Missing
from ggnet.io import atomic_write

MODES = ("forward", "backward", "full")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--op", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["forward", "full"])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["float32"])
    parser.add_argument("--provider", nargs="+", help="default: all that are installed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for one comparison")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--out", type=Path, default=Path("bench/results/last.json"))
    parser.add_argument("--report", type=Path, help="print this results file and stop")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # one measurement, in a child
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    torch.set_default_device(options.device)
    # The same arithmetic for everybody: cuDNN would take TF32 where products do not.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console = Console()
    if options.memory_of:
        print(memory_here(*options.op, *options.mode, *options.dtype, options.memory_of))
        return 0
    if options.report:
        report(json.loads(options.report.read_text()), console)
        return 0
    results = {"machine": machine(options), "ceilings": measure.ceilings(), "rows": []}
    for op in options.op:
        for dtype in options.dtype:
            for mode in options.mode:
                rows = compare(op, mode, dtype, options, console)
                results["rows"].extend(rows)
                with atomic_write(options.out, "w") as file:
                    json.dump(results, file, indent=1)
    report(results, console)
    console.print(f"written to {options.out}")
    return 0


def prepare(op: str, mode: str, dtype: str, name: str):
    """The callable that does one measurement, on inputs made from a fixed seed."""
    torch.manual_seed(0)
    case = CASES[op]()
    if mode != "forward" and not case.differentiable:
        raise Missing("has no backward")
    inputs = case.make(DTYPES[dtype])
    if mode == "forward":
        for tensor in inputs.tensors.values():
            tensor.requires_grad_(False)
    call = case.providers[name](inputs)
    return case, measure.step(call, [inputs[leaf] for leaf in inputs.leaves], mode)


def compare(op: str, mode: str, dtype: str, options, console: Console) -> list[dict]:
    """Time every provider of a case in interleaved rounds."""
    case = CASES[op]()
    if mode != "forward" and not case.differentiable:
        return []
    steps, rows = {}, []
    for name in case.providers:
        if options.provider and name not in options.provider:
            continue
        try:
            _, steps[name] = prepare(op, mode, dtype, name)
            steps[name]()
        except Missing as reason:
            console.print(f"{case.name} {mode} {dtype}: {name} skipped: {reason}", style="dim")
            steps.pop(name, None)
        except RuntimeError as error:
            console.print(f"{case.name} {mode} {dtype}: {name} fails: {error}", style="dim")
            steps.pop(name, None)
    times = measure.interleave(steps, options.repeats, options.budget)
    work = {"forward": 1, "backward": 2, "full": 3}[mode]
    for name, values in times.items():
        seconds = measure.median(values)
        row = {
            "op": case.name,
            "shape": case.shape,
            "mode": mode,
            "dtype": dtype,
            "provider": name,
            "seconds": seconds,
            "all_seconds": values,
            "gflops": work * case.flops / seconds / 1e9,
        }
        if measure.on_gpu():  # torch counts; a process's memory needs one of its own
            row["extra_bytes"] = measure.peak_memory(steps[name])
        elif not options.no_memory:
            row["extra_bytes"] = memory_of(op, mode, dtype, name, options)
        rows.append(row)
    return rows


def memory_here(op: str, mode: str, dtype: str, name: str) -> int:
    return measure.peak_memory(prepare(op, mode, dtype, name)[1])


def memory_of(op: str, mode: str, dtype: str, name: str, options) -> int | None:
    """Peak growth of a process that does nothing else; None where that fails."""
    command = [sys.executable, "-m", "bench", "--op", op, "--mode", mode, "--dtype", dtype]
    command += ["--threads", str(options.threads), "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def machine(options) -> dict:
    """What the figures were measured on."""
    gpu = None
    if options.device == "cuda":
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = f"{card.name}, sm_{card.major}{card.minor}, CUDA {torch.version.cuda}"
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "gpu": gpu,
        "cpu": model,
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def report(results: dict, console: Console) -> None:
    """The table: medians, ratio to ggnet, rate, peak memory."""
    m, c = results["machine"], results["ceilings"]
    host = f"{m['cpu']} ({m['isa']}), {m['threads']} threads"
    console.print(
        f"{m['gpu'] or host}, torch {m['torch']}; in this run a large "
        f"product reached {c['gemm_gflops']:.0f} GFLOP/s, a copy {c['copy_gbs']:.1f} GB/s"
    )
    groups: dict[tuple, list[dict]] = {}
    for row in results["rows"]:
        groups.setdefault((row["op"], row["shape"], row["mode"], row["dtype"]), []).append(row)
    for (op, shape, mode, dtype), rows in groups.items():
        table = Table(title=f"{op}, {mode}, {dtype}: {shape}", title_justify="left")
        table.add_column("provider")
        for column in ("median ms", "ggnet = 1", "GFLOP/s", "peak extra MB"):
            table.add_column(column, justify="right")
        own = next((row["seconds"] for row in rows if row["provider"] == "ggnet"), None)
        for row in sorted(rows, key=lambda row: row["seconds"]):
            extra = row.get("extra_bytes")
            table.add_row(
                row["provider"],
                f"{row['seconds'] * 1e3:.2f}",
                f"{row['seconds'] / own:.2f}" if own else "",
                f"{row['gflops']:.0f}" if row["gflops"] else "",
                "" if extra is None else f"{extra / 1e6:.0f}",
            )
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
