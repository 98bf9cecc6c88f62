"""Time and memory of the operators and their peers, in one run.

    python -m bench                                    everything, as in docs/benchmarks.md
    python -m bench --op actpoint --mode full --dtype float32 --provider ggnet torchvision
    python -m bench --op actpoint --shape 2,64,64,96,3
    python -m bench model                              whole networks (--help: its own)
    python -m bench loader                             training images (--help: its own)
    python -m bench shared                             training beside busy processes
    python -m bench dropin                             networks on torchvision's operator, replaced
    python -m bench backbones                          timm's networks beside the package's own

Peers that are not installed are skipped, with the reason. On a CPU, ggnet and torchvision are
measured with one thread as well. Results go to a JSON file with the machine's description;
`--report FILE` prints one again, and `--publish FILE...` makes the tables of docs/benchmarks.md and
docs/bench-cpu.png.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench import measure, publish
from bench.cases import BATCHED, CASES, Missing, case, fields
from ggnet.cores import usable_cores
from ggnet.io import atomic_write

ONE_THREAD = {name: f"{name}, 1 thread" for name in ("ggnet", "torchvision")}
MODES = ("forward", "backward", "full", "deterministic")  # full, with the same bits every run
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> int:
    if sys.argv[1:2] == ["model"]:
        from bench import model  # it imports this module

        return model.main(sys.argv[2:])
    if sys.argv[1:2] == ["loader"]:
        from bench import loader

        return loader.main(sys.argv[2:])
    if sys.argv[1:2] == ["shared"]:
        from bench import shared

        return shared.main(sys.argv[2:])
    if sys.argv[1:2] == ["dropin"]:
        from bench import dropin

        return dropin.main(sys.argv[2:])
    if sys.argv[1:2] == ["backbones"]:
        from bench import backbones

        return backbones.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--op", nargs="+", choices=list(CASES), help="default: all; on a CPU those of one image"
    )
    parser.add_argument(
        "--shape",
        type=lambda text: tuple(int(number) for number in text.split(",")),
        help="numbers with commas, of one --op; what they mean: "
        + "; ".join(f"{op}: {','.join(fields(op))}" for op in CASES),
    )
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["forward", "full"])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["float32"])
    parser.add_argument("--provider", nargs="+", help="default: all that are installed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count CPU time: for a busy machine, with --threads 1",
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for one comparison")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--out", type=Path, default=Path("bench/results/last.json"))
    parser.add_argument(
        "--append", action="store_true", help="keep other rows of --out, and memory"
    )
    parser.add_argument("--report", type=Path, help="print this results file and stop")
    parser.add_argument("--publish", nargs="+", type=Path, help="tables and picture, and stop")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # one measurement, in a child
    options = parser.parse_args()
    options.op = options.op or [op for op in CASES if options.device == "cuda" or op not in BATCHED]
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    if options.cpu_time:
        if options.threads != 1 or options.device != "cpu":
            parser.error("--cpu-time: only with --threads 1 on a CPU")
        measure.count_cpu_time()
    if options.shape and (len(options.op) != 1 or len(options.shape) != len(fields(options.op[0]))):
        parser.error(
            f"--shape {','.join(map(str, options.shape))}: wants one --op and its numbers, "
            f"for example {','.join(fields(options.op[0]))} for {options.op[0]}"
        )
    torch.set_default_device(options.device)
    # The same arithmetic for everybody: cuDNN would take TF32 where products do not.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console = Console()
    if options.memory_of:
        where = (*options.op, *options.mode, *options.dtype, options.memory_of, options.shape)
        print(measure.peak_memory(measure.step(*prepare(*where), *options.mode)))
        return 0
    if options.publish:
        publish.publish([json.loads(path.read_text()) for path in options.publish])
        return 0
    if options.report:
        report(json.loads(options.report.read_text()), console)
        return 0
    results = {"machine": machine(options), "ceilings": measure.ceilings(), "rows": []}
    kept, known = [], {}
    if options.append and options.out.exists():
        earlier = json.loads(options.out.read_text())
        if earlier["machine"] != results["machine"]:
            parser.error(f"--append: {options.out} was measured on another machine or torch")
        kept = earlier["rows"]
        known = {_key(row): row.get("extra_bytes") for row in kept}
        for name, value in earlier["ceilings"].items():
            results["ceilings"][name] = max(value, results["ceilings"][name])
    for op in options.op:
        for dtype in options.dtype:
            for mode in options.mode:
                results["rows"].extend(compare(op, mode, dtype, options, console))
                # A case is replaced as a whole: ratios are of one run's rounds only.
                new = {_key(row)[:-1] for row in results["rows"]}
                rows = [row for row in kept if _key(row)[:-1] not in new]
                for row in results["rows"]:
                    memory = known.get(_key(row))
                    rows.append({"extra_bytes": memory, **row} if memory else row)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(options.out, "w") as file:
                    json.dump({**results, "rows": rows}, file, indent=1)
    report(results, console)
    console.print(f"written to {options.out}")
    return 0


def _key(row: dict) -> tuple:
    return tuple(row[name] for name in ("op", "shape", "mode", "dtype", "provider"))


def prepare(op: str, mode: str, dtype: str, name: str, shape: tuple[int, ...] | None = None):
    """The call to be measured and its leaves, on inputs made from a fixed seed."""
    torch.manual_seed(0)
    of = case(op, shape)
    if mode != "forward" and not of.differentiable:
        raise Missing("has no backward")
    inputs = of.make(DTYPES[dtype])
    if mode == "forward":
        for tensor in inputs.tensors.values():
            tensor.requires_grad_(False)
    call = of.providers[name](inputs)
    return call, [inputs[leaf] for leaf in inputs.leaves]


def compare(op: str, mode: str, dtype: str, options, console: Console) -> list[dict]:
    """Time every provider of a case in interleaved rounds."""
    of = case(op, options.shape)
    if mode != "forward" and not of.differentiable:
        return []
    steps, calls, rows = {}, {}, []
    for name in of.providers:
        if options.provider and name not in options.provider:
            continue
        try:
            calls[name] = prepare(op, mode, dtype, name, options.shape)
            steps[name] = measure.step(*calls[name], mode)
            steps[name]()
        except Exception as error:  # of whatever kind a peer raises: the others go on
            how = "skipped" if isinstance(error, Missing) else "fails"
            console.print(f"{of.name} {mode} {dtype}: {name} {how}: {error}", style="dim")
            steps.pop(name, None)
    if options.threads > 1 and not measure.on_gpu():
        for name in [name for name in ONE_THREAD if name in steps]:
            steps[ONE_THREAD[name]] = measure.with_threads(steps[name], 1)
    times = measure.interleave(steps, options.repeats, options.budget)
    replays = {}
    for name in times if measure.on_gpu() and mode != "backward" else ():
        try:
            replays[name] = measure.kernels(*calls[name], mode)
        except RuntimeError as error:
            reason = f"no graph holds it: {error}"
            console.print(f"{of.name} {mode} {dtype}: {name}: {reason}", style="dim")
    alone = measure.interleave(replays, options.repeats, options.budget)
    work = {"forward": 1, "backward": 2, "full": 3, "deterministic": 3}[mode]
    traffic = {"forward": of.bytes, "full": of.full_bytes}.get(mode, lambda element: 0.0)
    for name, values in times.items():
        seconds = measure.median(values)
        row = {
            "op": of.name,
            "shape": of.shape,
            "mode": mode,
            "dtype": dtype,
            "provider": name,
            "seconds": seconds,
            "all_seconds": values,
            "gflops": work * of.flops / seconds / 1e9,
            "gbs": traffic(DTYPES[dtype].itemsize) / seconds / 1e9,
        }
        if name in alone:
            row["kernel_seconds"] = measure.median(alone[name])
        if options.no_memory or name in ONE_THREAD.values():
            pass
        elif measure.on_gpu():  # torch counts; a process's memory needs one of its own
            row["extra_bytes"] = measure.peak_memory(steps[name])
        else:
            row["extra_bytes"] = memory_of(op, mode, dtype, name, options)
        rows.append(row)
    return rows


def memory_of(op: str, mode: str, dtype: str, name: str, options) -> int | None:
    """Peak growth of a process that does nothing else; None where that fails."""
    command = [sys.executable, "-m", "bench", "--op", op, "--mode", mode, "--dtype", dtype]
    command += ["--threads", str(options.threads), "--memory-of", name]
    if options.shape:
        command += ["--shape", ",".join(map(str, options.shape))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def machine(options) -> dict:
    """What the figures were measured on."""
    gpu = None
    if options.device == "cuda":
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = f"{card.name}, sm_{card.major}{card.minor}, CUDA {torch.version.cuda}"
    info = {}
    for line in reversed(Path("/proc/cpuinfo").read_text().splitlines()):
        key, _, value = line.partition(":")
        info[key.strip()] = value.strip()
    model = info.get("model name", platform.processor())
    if "cpu family" in info:
        model += f" (family {info['cpu family']}, model {info.get('model')})"
    flags = info.get("flags", "").split()
    known = {
        "avx2": "AVX2",
        "avx512f": "AVX-512",
        "avx512_bf16": "AVX512-BF16",
        "amx_bf16": "AMX-BF16",
    }
    isa = ", ".join(name for flag, name in known.items() if flag in flags)
    return {
        "gpu": gpu,
        "cpu": model,
        "isa": isa or platform.machine(),
        "threads": options.threads,
        "clock": "CPU time" if options.cpu_time else "wall time",
        "torch": torch.__version__,
        "system": f"{platform.system()}-{platform.machine()}",
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
        columns = ("median ms", "ggnet = 1", "kernels ms", "GFLOP/s", "GB/s", "peak extra MB")
        for column in columns:
            table.add_column(column, justify="right")
        own = next((row["seconds"] for row in rows if row["provider"] == "ggnet"), None)
        for row in sorted(rows, key=lambda row: row["seconds"]):
            extra = row.get("extra_bytes")
            table.add_row(
                row["provider"],
                f"{row['seconds'] * 1e3:.2f}",
                f"{row['seconds'] / own:.2f}" if own else "",
                f"{row['kernel_seconds'] * 1e3:.3f}" if "kernel_seconds" in row else "",
                f"{row['gflops']:.0f}" if row["gflops"] else "",
                f"{row['gbs']:.1f}" if row["gbs"] else "",
                "" if extra is None else f"{extra / 1e6:.0f}",
            )
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
