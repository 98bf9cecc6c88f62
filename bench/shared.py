"""Training on a CPU that others use as well: images/s alone, beside one and two busy processes.

    python -m bench shared                  the table
    python -m bench shared --publish        and into docs/training.md

Trains the preset `demo` on its own scenes for an epoch in each cell: `ggnet train`, whose threads
wait passively, and the same with OpenMP's own default. A busy process is a loop in Python.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.__main__ import machine
from bench.loader import PAGE
from bench.publish import replace_between
from ggnet.cores import usable_cores
from ggnet.data.scenes import generate

BEGIN = "<!-- python -m bench shared --publish: begin -->"
# What reads OpenMP's variables before the command can set them
DEFAULT = "import torch, sys; from ggnet.cli import main; raise SystemExit(main(sys.argv[1:]))"
WAYS = {"`ggnet train`": ("-m", "ggnet"), "OpenMP's default": ("-c", DEFAULT)}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench shared",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=480, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=1, help="the best of them counts")
    parser.add_argument("--publish", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args(arguments)
    options.threads, options.device, options.cpu_time = usable_cores(), "cpu", False
    rates = {way: dict.fromkeys(options.neighbours, 0.0) for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / "scenes", train=options.images, test=1)
        for number in range(options.rounds):
            for count in options.neighbours:
                for way in WAYS:
                    run = Path(folder) / f"{number}-{count}-{way}"
                    with busy(count):
                        rates[way][count] = max(rates[way][count], rate(way, run))
    titles = {0: "alone", 1: "beside 1 busy process"}
    lines = [
        f"Images/s of the preset `demo` on {usable_cores()} cores, {machine(options)['cpu']}:",
        "",
        "| | " + " | ".join(titles.get(n, f"beside {n}") for n in options.neighbours) + " |",
        "|---|" + "---:|" * len(options.neighbours),
        *(
            f"| {way} | " + " | ".join(f"{rates[way][n]:.0f}" for n in rates[way]) + " |"
            for way in WAYS
        ),
    ]
    print("\n".join(lines))
    if options.publish:
        replace_between(PAGE, BEGIN, "\n" + "\n".join(lines) + "\n\n")
    return 0


def rate(way: str, run: Path) -> float:
    """Images a second of an epoch, as the run itself says."""
    names = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    settings = [f"data.root={run.parent / 'scenes'}", "train.epochs=1", "train.eval_every=null"]
    command = [sys.executable, *WAYS[way], "train", "--config", "demo", "--out", str(run)]
    subprocess.run(
        [*command, *settings, "train.device=cpu"],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with open(run / "results.csv", newline="") as file:
        return float(next(csv.DictReader(file))["images_per_second"])


@contextmanager
def busy(count: int) -> Iterator[None]:
    """While entered, so many processes compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
