"""Whole networks: training step and inference, beside the same network in eager PyTorch.

    python -m bench model                                  GGNet on DLA-34, 512 x 512, batch 1
    python -m bench model --preset goals --out FILE        what the package promises, on the device
    python -m bench model --publish FILE...                its tables in docs/
    python -m bench model --network ppdm --backbone tiny --size 128 --mode train --dtype bfloat16

eager: the same modules and weights with torchvision's deform_conv2d in place of this package's
operators, the sigmoid, the sum of offsets, bias and ReLU around it and the loss written out, and
the decoding image by image. Under autocast torchvision's operator computes in float32, as is its
default; "eager, half" casts to float16 around it, which a GPU can. "ggnet captured" is a CUDA graph
from images to triplets, "ggnet graphed" one of the network's forward and one of its backward
(train.execution=capture).

Both sides use channels_last, cuDNN's benchmark mode and the same fused Adam; for inference in half
precision the weights are cast once. ggnet draws its heatmaps in the loss; eager finds them drawn,
as published code draws them in the loader. Before anything is timed, outputs, losses and gradients
of both are compared in float32.

A step begins with the batch in (pinned) host memory. Peak memory is all that a side adds to the
process: weights, gradients, Adam's moments, activations.
"""

import argparse
import copy
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench import measure, network_tables, networks
from bench.__main__ import DTYPES, machine
from bench.cases import Missing
from ggnet import ops
from ggnet.config import LossConfig, TrainConfig
from ggnet.cores import usable_cores
from ggnet.data.batch import Batch
from ggnet.engine.execution import capture_training, compile_training
from ggnet.engine.optim import build_optimizer
from ggnet.io import atomic_write
from ggnet.models import GGNet
from ggnet.models.checkpointing import set_checkpointing
from ggnet.models.detector import MAPS
from ggnet.nn import GGNetLoss

MODES = ("train", "inference")
RECOMPUTING = "ggnet, checkpointing"  # model.checkpointing=all
CAPTURED, GRAPHED, COMPILED = "ggnet captured", "ggnet graphed", "ggnet compiled"
PROVIDERS = ("ggnet", RECOMPUTING, CAPTURED, GRAPHED, COMPILED, "eager", "eager, half")
ON_REQUEST = (COMPILED,)  # which takes minutes
STAGES = (
    *("copy", "backbone", "heads", "gaze", "network", "decode", "graph"),
    *("loss", "backward", "optimizer"),
)
OUTPUTS_AGREE, GRADIENTS_AGREE = 1e-4, 1e-2  # relative, float32
WARM_UP = 3  # cuDNN tries its algorithms


@dataclass(frozen=True)
class Case:
    """A network and what it does."""

    network: str
    backbone: str
    mode: str
    dtype: str
    batch: int
    size: int = 512

    def __str__(self) -> str:
        what = {"train": "training step", "inference": "inference"}[self.mode]
        name = f"{self.network} {self.backbone}"
        return f"{name}, {what}, batch {self.batch}, {self.size} x {self.size}, {self.dtype}"


@dataclass(frozen=True)
class Goal:
    """A bound on a provider's figure over eager's: of "seconds" or "peak_bytes"."""

    case: Case
    figure: str
    provider: str
    at_most: float


_DLA, _HOURGLASS = ("ggnet", "dla34"), ("ggnet", "hourglass104")
GOALS = {
    "cuda": [
        Goal(Case(*_DLA, "train", "bfloat16", 14), "seconds", "ggnet", 1 / 2.5),
        Goal(Case(*_DLA, "train", "bfloat16", 14), "peak_bytes", "ggnet", 0.6),
        Goal(Case(*_HOURGLASS, "train", "bfloat16", 4), "seconds", "ggnet", 1 / 2),
        Goal(Case(*_DLA, "inference", "bfloat16", 1), "seconds", CAPTURED, 1 / 5),
    ],
    "cpu": [
        Goal(Case(*_HOURGLASS, "inference", "float32", 1), "seconds", "ggnet", 3.69 / 11.98),
        Goal(Case(*_DLA, "inference", "float32", 1), "seconds", "ggnet", 1.33 / 5.65),
        Goal(Case(*_DLA, "train", "float32", 1), "seconds", "ggnet", 5.24 / 45.2),
        Goal(Case(*_DLA, "train", "float32", 1), "peak_bytes", RECOMPUTING, 0.5),
    ],
}


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    torch.set_default_device(options.device)
    torch.set_num_threads(options.threads)
    # The same arithmetic for everybody: cuDNN would take TF32 where products do not.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.report:
        report(json.loads(options.report.read_text()), console)
        return 0
    if options.publish:
        network_tables.publish([json.loads(path.read_text()) for path in options.publish])
        return 0
    if options.memory_of:
        print(memory_in_this_process(options.cases[0], options.memory_of))
        return 0
    results = {"machine": machine(options), "rows": [], "skipped": []}
    for case in options.cases:
        console.print(f"{case} ...", highlight=False)
        rows, skipped = compare(case, options)
        results["rows"] += [{**asdict(case), **row} for row in rows]
        for provider, reason in skipped.items():
            results["skipped"].append({**asdict(case), "provider": provider, "reason": reason})
            console.print(f"  {provider} skipped: {reason}", highlight=False, markup=False)
        with atomic_write(options.out, "w") as file:  # what is measured stays if the next one fails
            json.dump(results, file, indent=1)
    report(results, console)
    console.print(f"written to {options.out}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench model",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--preset", choices=["goals"], help="in place of the options down to --size"
    )
    parser.add_argument("--network", nargs="+", choices=list(networks.NETWORKS), default=["ggnet"])
    parser.add_argument("--backbone", nargs="+", default=["dla34"], help="as model.backbone")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["inference", "train"])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["float32"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument(
        "--provider",
        nargs="+",
        choices=PROVIDERS,
        default=[name for name in PROVIDERS if name not in ON_REQUEST],
        help=f"default: all but {' and '.join(ON_REQUEST)}",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for one comparison")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--out", type=Path, default=Path("bench/results/model.json"))
    parser.add_argument("--report", type=Path, help="print this results file and stop")
    parser.add_argument("--publish", nargs="+", type=Path, help="tables into docs/, and stop")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # one measurement, in a child
    parser.set_defaults(cpu_time=False)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    if min(options.batch) < 1:
        parser.error(f"--batch {min(options.batch)}: expected 1 or more")
    options.cases = [
        Case(network, backbone, mode, dtype, batch, options.size)
        for network in options.network
        for backbone in options.backbone
        for mode in options.mode
        for dtype in options.dtype
        for batch in options.batch
    ]
    if options.preset:
        options.cases = list(dict.fromkeys(goal.case for goal in GOALS[options.device]))
    return options


# -- one comparison -------------------------------------------------------------------------------


def compare(case: Case, options: argparse.Namespace) -> tuple[list[dict], dict[str, str]]:
    """Time the providers of a case in interleaved rounds.

    Returns:
        A row for each, and for those that cannot run or that fail, the reason.
    """
    names = [name for name in options.provider if applies(name, case)]
    agreement: dict[str, float] = {}
    skipped: dict[str, str] = {}
    try:
        host, base = setting(case)
        work = networks.flops(base.train(case.mode == "train"), on_device(host.images)[:1])
        if any(map(is_eager, names)):
            agreement = check(case, base)
    except Missing as reason:
        skipped = dict.fromkeys(filter(is_eager, names), str(reason))
        names = [name for name in names if not is_eager(name)]
    except Exception as error:
        return [], dict.fromkeys(names, described(error))

    runs: dict[str, Callable[[], float]] = {}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    for name in names:
        try:
            before = torch.cuda.memory_allocated() if measure.on_gpu() else 0
            step, clock = provider(name, case, copy.deepcopy(base), host)
            runs[name] = guarded(name, step, clock, stages[name], skipped)
            if measure.on_gpu():
                for _ in range(WARM_UP):
                    step()
                torch.cuda.reset_peak_memory_stats()
                step()
                peaks[name] = torch.cuda.max_memory_allocated() - before
        except Exception as error:  # of whatever kind a peer raises: the others go on
            skipped[name] = described(error)
            runs.pop(name, None)
            step = clock = None  # with its memory
            torch.cuda.empty_cache()
    for name in (CAPTURED, GRAPHED):  # a graph's memory is its own; torch does not count it here
        peaks.pop(name, None)
    times = measure.interleave(runs, options.repeats, options.budget)
    rows = []
    for name in times.keys() - skipped.keys():
        seconds = measure.median(times[name])
        if not measure.on_gpu() and not options.no_memory:
            peaks[name] = memory_of(case, name, options.threads)
        rows.append(
            {
                "provider": name,
                "seconds": seconds,
                "all_seconds": times[name],
                "images_per_second": case.batch / seconds,
                "stages": {
                    stage: measure.median([found[stage] for found in stages[name]])
                    for stage in stages[name][0]
                },
                "parameters": sum(parameter.numel() for parameter in base.parameters()),
                "gflop_per_image": work * (3 if case.mode == "train" else 1) / 1e9,
                "peak_bytes": peaks.get(name),
                "agreement": agreement,
            }
        )
    rows.sort(key=lambda row: PROVIDERS.index(row["provider"]))
    return rows, skipped


def applies(name: str, case: Case) -> bool:
    """Whether a provider has anything of its own to show for a case."""
    if name == RECOMPUTING:
        return case.mode == "train"
    if name in (CAPTURED, GRAPHED):
        return measure.on_gpu() and (case.mode == "inference") == (name == CAPTURED)
    return name != "eager, half" or (measure.on_gpu() and case.dtype != "float32")


def is_eager(name: str) -> bool:
    return name.startswith("eager")


def guarded(
    name: str,
    step: Callable[[], float],
    clock: "StageClock",
    stages: list[dict[str, float]],
    skipped: dict[str, str],
) -> Callable[[], float]:
    """The step; its stages are noted, and after a failure it is not tried again."""

    def run() -> float:
        if name in skipped:
            return math.nan
        try:
            seconds = step()
            stages.append(clock.read())
        except Exception as error:
            skipped[name] = described(error)
            return math.nan
        return seconds

    return run


def described(error: Exception) -> str:
    """What a results file says of it; the exception itself would keep tensors alive."""
    text = str(error).strip()
    if isinstance(error, Missing):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def setting(case: Case) -> tuple[Batch, GGNet]:
    """The batch in host memory and the network on the device, the same ones in every process."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = False  # for the float32 passes that nobody times
    host = networks.batch(case.batch, case.size)
    if measure.on_gpu():
        host = host.pin_memory()
    return host, networks.network(case.network, case.backbone, on_device(host.images)[:2])


def on_device(images: Tensor) -> Tensor:
    return images.to(torch.get_default_device(), non_blocking=True)


def provider(
    name: str, case: Case, model: GGNet, host: Batch
) -> tuple[Callable[[], float], "StageClock"]:
    """What does one step of a case in seconds, and the stages of the last one."""
    torch.backends.cudnn.benchmark = True
    model.train(case.mode == "train")
    clock = StageClock()
    if name == GRAPHED:
        graph(case, model, host.to(torch.get_default_device()))
    clock.watch(model, parts=name not in (GRAPHED, COMPILED))
    if name == COMPILED:
        compile_training(model)
    if name == RECOMPUTING:
        set_checkpointing(model)
    eager, dtype = None, DTYPES[case.dtype]
    if is_eager(name):
        dtype = torch.float16 if name == "eager, half" else torch.float32
        eager = networks.Eager(torchvision_deform_conv2d(), dtype)
    if case.mode == "inference" and case.dtype != "float32":
        networks.cast_weights(model, DTYPES[case.dtype], dtype)
    if name == CAPTURED:
        return captured(case, model, host, clock), clock
    if case.mode == "train":
        step = training(case, model, host, clock)
    else:
        decode = networks.decode_images if eager else ops.decode_hoi
        step = inference(case, model, host, clock, decode)
    if eager is None:
        return step, clock

    def in_eager() -> float:
        with eager.patched():
            return step()

    return in_eager, clock


def autocast(case: Case, **options) -> torch.autocast:
    device, dtype = torch.get_default_device().type, DTYPES[case.dtype]
    return torch.autocast(device, dtype, enabled=dtype != torch.float32, **options)


def training(case: Case, model: GGNet, host: Batch, clock: "StageClock") -> Callable[[], float]:
    """The trainer's step: copy the batch, forward, loss, backward, Adam."""
    if case.dtype == "float16":
        raise Missing("training in float16 wants scaled losses; the trainer has bfloat16")
    loss, optimizer = GGNetLoss(LossConfig()), build_optimizer(model, TrainConfig())

    def step() -> float:
        begin = measure.now()
        clock.start()
        batch = host.to(torch.get_default_device())
        clock.mark("copy")
        optimizer.zero_grad()
        with autocast(case):
            total, _ = loss(model(batch.images), batch)
        clock.mark("loss")
        total.backward()
        clock.mark("backward")
        optimizer.step()
        clock.mark("optimizer")
        return measure.now() - begin

    return step


def graph(case: Case, model: GGNet, batch: Batch) -> None:
    """From now on forward and backward of the network are one CUDA graph each.

    Raises:
        RuntimeError: they are not what they were.
    """
    loss = GGNetLoss(LossConfig())

    def results() -> Tensor:
        model.zero_grad()
        with autocast(case):
            total, _ = loss(model(batch.images), batch)
        total.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        return torch.stack([total.detach(), torch.nn.utils.get_total_norm(gradients)])

    expected = results()
    model.zero_grad()
    dtype = DTYPES[case.dtype]
    capture_training(model, batch.images, None if dtype == torch.float32 else dtype)
    if not torch.allclose(results(), expected, rtol=0.02):
        raise RuntimeError("the graphs' loss and gradient are not those of the network")


def inference(
    case: Case, model: GGNet, host: Batch, clock: "StageClock", decode: Callable
) -> Callable[[], float]:
    """From images on the host to triplets on the host."""
    valid = networks.valid_pairs()

    @torch.inference_mode()
    def step() -> float:
        begin = measure.now()
        clock.start()
        images = on_device(host.images)
        clock.mark("copy")
        with autocast(case):
            outputs = model(images)
        triplets = decode(maps(outputs), valid)
        clock.mark("decode")
        networks.packed(triplets).cpu()
        clock.mark("copy")
        return measure.now() - begin

    return step


def maps(outputs: dict) -> dict[str, Tensor]:
    return {name: outputs[name] for name in MAPS}


def captured(case: Case, model: GGNet, host: Batch, clock: "StageClock") -> Callable[[], float]:
    """Network and decoding as one CUDA graph, and one copy of the results."""
    valid, images = networks.valid_pairs(), on_device(host.images)

    @torch.no_grad()
    def run() -> Tensor:
        # Without autocast's cache: what it keeps belongs to the graph that is being captured.
        with autocast(case, cache_enabled=False):
            outputs = model(images)
        return networks.packed(ops.decode_hoi(maps(outputs), valid))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            expected = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    graph.replay()
    if not torch.allclose(results[..., 0], expected[..., 0], rtol=0.05, atol=1e-3):
        raise RuntimeError("the graph's scores are not those of the network")

    def step() -> float:
        begin = measure.now()
        clock.start()
        images.copy_(host.images, non_blocking=True)
        clock.mark("copy")
        graph.replay()
        clock.mark("graph")
        results.cpu()
        clock.mark("copy")
        return measure.now() - begin

    return step


class StageClock:
    """When each stage of a step ends: by the GPU's own clock, or by the host's on a CPU."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, torch.cuda.Event | float]] | None = None

    def watch(self, model: GGNet, parts: bool) -> None:
        """Note the network; its `parts` are backbone, heads, and what scores the verbs: gaze."""
        if not parts:  # hooks would cut what is compiled
            model.register_forward_hook(lambda *_: self.mark("network"))
            return
        model.backbone.register_forward_hook(lambda *_: self.mark("backbone"))
        for heads in model.heads:
            heads.verbs.register_forward_pre_hook(lambda *_: self.mark("heads"))
            heads.verbs.register_forward_hook(lambda *_: self.mark("gaze"))

    def start(self) -> None:
        self._marks = []
        self.mark("")

    def mark(self, stage: str) -> None:
        """`stage` is what ran since the last mark. Without `start`, nothing is noted."""
        if self._marks is None:
            return
        now: torch.cuda.Event | float
        if measure.on_gpu():
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((stage, now))

    def read(self) -> dict[str, float]:
        """Seconds of every stage, once the device is done."""
        marks, self._marks = self._marks, None
        seconds: dict[str, float] = {}
        for (_, begin), (stage, end) in zip(marks, marks[1:], strict=False):
            passed = begin.elapsed_time(end) / 1e3 if measure.on_gpu() else end - begin
            seconds[stage] = seconds.get(stage, 0.0) + passed
        return seconds


# -- both sides are the same network --------------------------------------------------------------


def torchvision_deform_conv2d() -> Callable:
    try:
        from torchvision.ops import deform_conv2d
    except (ImportError, RuntimeError) as error:
        raise Missing(f"torchvision does not import: {error}") from None
    return deform_conv2d


def check(case: Case, model: GGNet, deform_conv2d: Callable | None = None) -> dict[str, float]:
    """Compare both sides in float32, on one image.

    Returns:
        The largest relative difference of each output, or of each loss and of the gradient.

    Raises:
        RuntimeError: they are not the same network.
    """
    eager = networks.Eager(deform_conv2d or torchvision_deform_conv2d())
    batch = networks.batch(1, case.size).to(torch.get_default_device())
    run = _losses if case.mode == "train" else _outputs
    own = run(model, batch)
    with eager.patched():
        other = run(model, batch)
    if case.mode == "inference":
        valid = networks.valid_pairs()
        other["triplets"] = networks.decode_images(own, valid).scores
        own["triplets"] = ops.decode_hoi(own, valid, allow_same=True).scores.cpu()
    differences = {
        name: float((own[name] - other[name]).norm() / other[name].norm()) for name in own
    }
    for name, difference in differences.items():
        if not difference <= (GRADIENTS_AGREE if name == "gradient" else OUTPUTS_AGREE):
            raise RuntimeError(f"not the same network: {name} differs by {difference:.1e}")
    return differences


@torch.inference_mode()
def _outputs(model: GGNet, batch: Batch) -> dict[str, Tensor]:
    return maps(model.eval()(batch.images))


def _losses(model: GGNet, batch: Batch) -> dict[str, Tensor]:
    total, terms = GGNetLoss(LossConfig())(model.train()(batch.images), batch)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(total, parameters)
    return terms | {"gradient": torch.cat([gradient.flatten() for gradient in gradients])}


# -- memory on a CPU ------------------------------------------------------------------------------


def memory_of(case: Case, name: str, threads: int) -> int | None:
    """Peak growth of a process that does nothing else; None where that fails."""
    command = [sys.executable, "-m", "bench", "model", "--memory-of", name]
    command += ["--threads", str(threads)]
    for option, value in asdict(case).items():
        command += [f"--{option}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def memory_in_this_process(case: Case, name: str) -> int:
    """Bytes that the process grows by from before there is a network to the peak of a step."""
    networks.batch(1, case.size)  # its libraries are not the network's
    before = measure.resident()
    host, model = setting(case)
    step, _ = provider(name, case, model, host)
    step()
    base = measure.resident()
    return base - before + measure.peak_memory(step)


# -- reports --------------------------------------------------------------------------------------


def report(results: dict, console: Console) -> None:
    """A table for each case and one of the goals that the results decide."""
    m = results["machine"]
    host = f"{m['cpu']} ({m['isa']}), {m['threads']} threads"
    console.print(f"{m['gpu'] or host}, torch {m['torch']}", highlight=False)
    groups: dict[Case, list[dict]] = {}
    for row in results["rows"]:
        groups.setdefault(_case(row), []).append(row)
    for case, rows in groups.items():
        table = Table(
            title=f"{case}: {rows[0]['parameters'] / 1e6:.1f} M parameters, "
            f"{rows[0]['gflop_per_image']:.0f} GFLOP an image",
            title_justify="left",
        )
        table.add_column("provider")
        stages = [name for name in STAGES if any(name in row["stages"] for row in rows)]
        for column in ("images/s", "ms", "ggnet = 1", *stages, "TFLOP/s", "peak MB"):
            table.add_column(column, justify="right")
        own = next((row["seconds"] for row in rows if row["provider"] == "ggnet"), None)
        for row in rows:
            peak = row["peak_bytes"]
            rate = row["gflop_per_image"] * row["images_per_second"] / 1e3
            table.add_row(
                row["provider"],
                f"{row['images_per_second']:.2f}",
                f"{row['seconds'] * 1e3:.2f}",
                f"{row['seconds'] / own:.2f}" if own else "",
                *(
                    f"{row['stages'][stage] * 1e3:.2f}" if stage in row["stages"] else ""
                    for stage in stages
                ),
                f"{rate:.2f}",
                "" if peak is None else f"{peak / 1e6:.0f}",
            )
        console.print(table)
    table = Table(title="goals: ggnet over eager", title_justify="left")
    for column in ("", "at most", "measured", ""):
        table.add_column(column)
    for text, bound, measured in goals(results):
        verdict = "" if measured <= bound else "missed"
        table.add_row(text, f"{bound:.3f}", f"{measured:.3f}", verdict)
    if table.rows:
        console.print(table)


def goals(results: dict) -> list[tuple[str, float, float]]:
    """Every goal whose rows are there: what it is, its bound, what was measured."""
    rows = {(_case(row), row["provider"]): row for row in results["rows"]}
    found = []
    for goal in GOALS["cuda" if results["machine"]["gpu"] else "cpu"]:
        own, peer = (rows.get((goal.case, name), {}) for name in (goal.provider, "eager"))
        if own.get(goal.figure) and peer.get(goal.figure):
            what = {"seconds": "time", "peak_bytes": "memory"}[goal.figure]
            text = f"{goal.case}, {goal.provider}: {what}"
            found.append((text, goal.at_most, own[goal.figure] / peer[goal.figure]))
    return found


def _case(row: dict) -> Case:
    return Case(*(row[name] for name in Case.__dataclass_fields__))
