"""Published networks on torchvision's deformable convolution, and with `replace_torchvision`.

    python -m bench dropin                                  all of bench/deformable.py
    python -m bench dropin --network birefnet --mode forward --threads 2
    python -m bench dropin --publish                        and into docs/benchmarks.md

Nothing of a network changes but that line. Outputs are compared before anything is timed; rounds
are interleaved, float32, batch 1. "full" is forward and backward in training mode, all gradients.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from bench import measure
from bench.__main__ import machine
from bench.publish import ROOT, milliseconds, replace_between
from ggnet import ops
from ggnet.cores import usable_cores
from ggnet.io import atomic_write

PAGE = ROOT / "docs/benchmarks.md"
BEGIN = "<!-- python -m bench dropin --publish: begin -->"
MODES = ("forward", "full")
AGREE = 1e-3  # of an output, relative to its largest value
# (network, mode) -> ggnet's time over torchvision's, with all threads
AT_MOST = {("birefnet", "forward"): 1 / 3}


def main(arguments: list[str]) -> int:
    try:
        import torchvision

        from bench.deformable import NETWORKS
    except (ImportError, RuntimeError) as error:
        raise SystemExit(f"python -m bench dropin needs torchvision: {error}") from None
    parser = argparse.ArgumentParser(
        prog="python -m bench dropin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, usable_cores()}))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds for one comparison")
    parser.add_argument("--small", action="store_true", help="the networks of the tests")
    parser.add_argument("--out", type=Path, default=Path("bench/results/last-dropin.json"))
    parser.add_argument("--publish", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args(arguments)
    console = Console()
    about = argparse.Namespace(threads=options.threads, device="cpu", cpu_time=False)
    about = machine(about) | {"torchvision": torchvision.__version__}
    results: dict = {"machine": about, "rows": []}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.network:
        torch.manual_seed(0)
        network, inputs = NETWORKS[name].prepare(small=options.small)
        check(network, inputs)
        for mode in options.mode:
            for threads in options.threads:
                times = compare(network, inputs, mode, threads, options)
                text = f"{name}, small" if options.small else NETWORKS[name].text
                row = {"network": name, "text": text, "mode": mode}
                results["rows"].append(row | {"threads": threads, "seconds": times})
                console.print(line(results["rows"][-1]))
                with atomic_write(options.out, "w") as file:  # what is measured stays
                    json.dump(results, file, indent=1)
    console.print(f"written to {options.out}")
    if options.publish:
        replace_between(PAGE, BEGIN, markdown(results))
    return 0


def check(network: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Refuse to time what does not compute the same."""
    with torch.no_grad():
        expected = network(*inputs)
        with ops.replace_torchvision(strict=True):
            actual = network(*inputs)
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    if not error < AGREE:
        raise RuntimeError(f"the outputs differ by {error:.2g} of the largest value")


def compare(
    network: torch.nn.Module, inputs: tuple[Tensor, ...], mode: str, threads: int, options
) -> dict[str, float]:
    """Medians in seconds, by provider."""
    leaves = [*network.parameters()]
    if mode == "forward":
        network = network.eval()
        call = torch.inference_mode()(partial(network, *inputs))
    else:
        call = partial(network.train(), *inputs)
    plain = measure.with_threads(measure.step(call, leaves, mode), threads)
    steps = {"torchvision": plain, "ggnet": replaced(plain)}
    times = measure.interleave(steps, options.repeats, options.budget)
    return {name: measure.median(values) for name, values in times.items()}


def replaced(run: Callable[[], float]) -> Callable[[], float]:
    """The one line."""

    def measured() -> float:
        with ops.replace_torchvision(strict=True):
            return run()

    return measured


def line(row: dict) -> str:
    own, theirs = row["seconds"]["ggnet"], row["seconds"]["torchvision"]
    return (
        f"{row['text']}, {row['mode']}, threads: {row['threads']}: torchvision "
        f"{milliseconds(theirs)} ms, ggnet {milliseconds(own)} ms, {theirs / own:.3g}x"
    )


def markdown(results: dict) -> str:
    m = results["machine"]
    lines = [
        f"{m['cpu']}, {m['isa']}, torch {m['torch']}, torchvision {m['torchvision']}, float32; ms.",
        "",
        "| network | threads | torchvision | replaced | |",
        "|---|---:|---:|---:|---:|",
    ]
    most = max(row["threads"] for row in results["rows"])
    for row in results["rows"]:
        own, theirs = row["seconds"]["ggnet"], row["seconds"]["torchvision"]
        limit = AT_MOST.get((row["network"], row["mode"])) if row["threads"] == most else None
        goal = f" (goal: {1 / limit:.3g}x)" if limit and own / theirs > limit else ""
        lines.append(
            f"| {row['text']}, {row['mode']} | {row['threads']} | {milliseconds(theirs)} | "
            f"{milliseconds(own)} | {theirs / own:.3g}x{goal} |"
        )
    return "\n".join(["", *lines, "", ""])
