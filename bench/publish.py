"""The tables of docs/benchmarks.md and the picture beside it, from results files of the driver."""

import re
from pathlib import Path
from typing import NamedTuple

from ggnet.io import atomic_write

ROOT = Path(__file__).resolve().parent.parent
BEGIN = {kind: f"<!-- python -m bench --publish, {kind}: begin -->" for kind in ("cpu", "gpu")}
END = "<!-- end -->"
PEERS = {  # provider -> heading
    "triton": "Triton",
    "ggnet, 1 thread": "ggnet, 1 thread",
    "dense conv2d": "dense conv.",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "torchvision": "torchvision",
    "torchvision, 1 thread": "torchvision, 1 thread",
    "torch.compile": "torch.compile",
    "torch eager": "torch eager",
}
ACTPOINT = "1x256x128x128, 256 outputs, 25 points"  # the shape that the goals speak of


class Memory(NamedTuple):
    """What extra memory, less the bytes of the result in it, is divided by."""

    bytes: float
    result: float = 0.0


def _deform_goals(
    name: str, shape: str, cells: int, sizes: tuple[int, int, int], forward: float, full: float
) -> list[tuple]:
    """Times beside torchvision's, and memory beside its columns; sizes: channels, outputs, taps."""
    channels, outputs, taps = sizes
    columns = Memory(4.0 * cells * channels * taps, result=4.0 * cells * outputs)
    forward_row, full_row = ((_DEFORM, shape, mode, "float32") for mode in ("forward", "full"))
    return [
        (f"{name} forward : torchvision", forward_row, "torchvision", forward),
        (f"{name} full : torchvision", full_row, "torchvision", full),
        (f"{name} forward, extra memory : torchvision's columns", forward_row, columns, 0.1),
    ]


# What the CPU kernels are to reach: text, (op, shape, mode, dtype), what is divided by what, at
# most. The divisor is a provider of the same case, "copy" of the ceilings, "float32" of the same
# kernel, or `Memory`.
_ACT, _DEFORM = "actpoint_aggregate", "deform_conv2d"
_FORWARD, _FULL = (_ACT, ACTPOINT, "forward", "float32"), (_ACT, ACTPOINT, "full", "float32")
SMALL, DEMO = "1x64x128x128, 64 outputs, 9 points", "16x32x32x32, 32 outputs, 25 points"
LOSS = "4x117x128x128"
_LOSS_FULL = ("hna_loss", LOSS, "full", "float32")
GOALS = [
    ("ActPoints forward : OpenVINO", _FORWARD, "openvino", 1.10),
    ("ActPoints forward : dense 5x5 conv.", _FORWARD, "dense conv2d", 1.25),
    ("ActPoints full : torchvision", _FULL, "torchvision", 1 / 8),
    ("ActPoints full : dense 5x5 conv.", _FULL, "dense conv2d", 1.5),
    ("ActPoints bfloat16 : float32", (_ACT, ACTPOINT, "forward", "bfloat16"), "float32", 0.65),
    ("ActPoints forward, extra MB", _FORWARD, Memory(1e6), 48.0),
    ("ActPoints full, extra MB", _FULL, Memory(1e6), 160.0),
    ("ActPoints forward, 2 threads : 1", _FORWARD, "ggnet, 1 thread", 1 / 1.8),
    ("ActPoints full, 2 threads : 1", _FULL, "ggnet, 1 thread", 1 / 1.8),
    *_deform_goals("DLA's 3x3", SMALL, 128**2, (64, 64, 9), 1 / 4, 1 / 6),
    *(goal for k in (1, 3, 7) for goal in _deform_goals(
        f"BiRefNet's {k}x{k}", f"1x64x256x256, 256 outputs, {k * k} points",
        256**2, (64, 256, k * k), 1 / 6, 1 / 10)),
    *_deform_goals(
        "BasicVSR++'s 16 offset groups", "1x128x180x320, 64 outputs, 9 points, 16 offset groups",
        180 * 320, (128, 64, 9), 1 / 4, 1 / 6),
    *_deform_goals(
        "ResNet-50's stride 2", "1x256x100x100, 256 outputs, 9 points, stride 2",
        50**2, (256, 256, 9), 1 / 6, 1 / 10),
    *_deform_goals(
        "ResNeXt-50's 32 groups", "1x512x50x50, 512 outputs, 9 points, 32 groups",
        50**2, (512, 512, 9), 1 / 6, 1 / 10),
    ("hna_loss full : torch.compile", _LOSS_FULL, "torch.compile", 1 / 4),
    ("hna_loss full : copy of its bytes", _LOSS_FULL, "copy", 4.0),
    ("topk_peaks : torch eager",
     ("topk_peaks", "1x117x128x128, k=100", "forward", "float32"), "torch eager", 1 / 30),
    ("decode_hoi : loop over images",
     ("decode_hoi", "8 images, 117 verbs, 80 objects, 128x128, 100 of each", "forward", "float32"),
     "torch eager", 1 / 10),
]  # fmt: skip

# What the GPU kernels are to reach: text, (op, shape, mode, dtype), by what it is divided (a
# provider of the same case, or another mode of ggnet's; None: milliseconds), which time, at most.
ACTPOINT_8 = ACTPOINT.replace("1x", "8x", 1)
GPU_GOALS = [
    ("ActPoints forward bfloat16, batch 8, kernels : dense 5x5 conv.",
     (_ACT, ACTPOINT_8, "forward", "bfloat16"), "dense conv2d", "kernel_seconds", 1.5),
    ("ActPoints full bfloat16, batch 8, kernels, ms",
     (_ACT, ACTPOINT_8, "full", "bfloat16"), None, "kernel_seconds", 4.5),
    ("ActPoints full bfloat16, batch 8, kernels, deterministic : default",
     (_ACT, ACTPOINT_8, "deterministic", "bfloat16"), "full", "kernel_seconds", 1.3),
    ("ActPoints forward float32 : torchvision",
     (_ACT, ACTPOINT, "forward", "float32"), "torchvision", "seconds", 0.5),
    ("ActPoints full float32 : torchvision",
     (_ACT, ACTPOINT, "full", "float32"), "torchvision", "seconds", 0.33),
    ("ActPoints full float16, batch 8 : torchvision",
     (_ACT, ACTPOINT_8, "full", "float16"), "torchvision", "seconds", 0.2),
    *((f"{op} {shape.partition(',')[0]} {mode} {dtype} : {peer}",
       (op, shape, mode, dtype), peer, "seconds", 1.0)
      for op, shape, peer in ((_DEFORM, SMALL, "torchvision"), (_ACT, DEMO, "torchvision"),
                              ("hna_loss", LOSS, "torch.compile"))
      for mode in ("forward", "full") for dtype in ("float32", "float16")),
]  # fmt: skip


def publish(files: list[dict]) -> None:
    """Tables of the files, CPUs and GPUs each in a place; a picture of the first CPU."""
    for kind, begin in BEGIN.items():
        of_kind = [f for f in files if bool(f["machine"].get("gpu")) == (kind == "gpu")]
        if not of_kind:
            continue
        replace_between(ROOT / "docs/benchmarks.md", begin, "\n".join(map(markdown, of_kind)))
        if kind == "cpu":
            draw(of_kind[0], ROOT / "docs/bench-cpu.png")


def replace_between(path: Path, begin: str, text: str) -> None:
    """Put `text` into the page between the only line `begin` and the next `END`."""
    page, found = re.subn(
        f"{re.escape(begin)}.*?{re.escape(END)}",
        lambda _: f"{begin}\n{text}{END}",
        path.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if found != 1:
        raise SystemExit(f"{path} has {found} places between '{begin}' and '{END}', expected 1")
    with atomic_write(path, "w") as file:
        file.write(page)


def cases(results: dict) -> dict[tuple, dict[str, dict]]:
    """(op, shape, mode, dtype) -> provider -> row, where ggnet was measured; float32 first."""
    groups: dict[tuple, dict[str, dict]] = {}
    for row in results["rows"]:
        key = (row["op"], row["shape"], row["mode"], row["dtype"])
        groups.setdefault(key, {})[row["provider"]] = row
    order = sorted(groups, key=lambda key: (key[0], key[1], key[3] != "float32", key[3], key[2]))
    return {key: groups[key] for key in order if "ggnet" in groups[key]}


def markdown(results: dict) -> str:
    m, c = results["machine"], results["ceilings"]
    found = {row["provider"] for row in results["rows"]}
    peers = {name: heading for name, heading in PEERS.items() if name in found}
    where = m.get("gpu") or f"{m['cpu']}, {m['isa']}, threads: {m['threads']}"
    lines = [
        f"{where}, torch {m['torch']}.",
        f"Medians of interleaved rounds, in {m['clock']}; *full* is forward and backward. The",
        "peers' columns say how many times ggnet's time they take (below 1: faster than ggnet). A",
        f"large product reached {c['gemm_gflops']:.0f} GFLOP/s, a copy {c['copy_gbs']:.1f} GB/s.",
        "",
        "| | ggnet, ms | rate | extra MB | " + " | ".join(peers.values()) + " |",
        "|---|" + "---:|" * (3 + len(peers)),
    ]
    if any("kernel_seconds" in row for row in results["rows"]):
        lines[-3:-2] = [
            "Two figures: with the call from Python; kernels alone (replays of a CUDA graph).",
            "",
        ]
    for (op, shape, mode, dtype), rows in cases(results).items():
        own = rows["ggnet"]
        rate = f"{own['gflops']:.0f} GFLOP/s" if own["gflops"] else ""
        if not rate and own["gbs"]:
            rate = f"{own['gbs']:.1f} GB/s"
        time = milliseconds(own["seconds"])
        if "kernel_seconds" in own:
            time += f"; {milliseconds(own['kernel_seconds'])}"
        cells = [f"`{op}` {shape}, {mode}, {dtype}", time, rate]
        cells.append("" if own.get("extra_bytes") is None else f"{own['extra_bytes'] / 1e6:.0f}")
        for peer in peers:
            cells.append("; ".join(ratios(rows.get(peer, {}), own)))
        lines.append("| " + " | ".join(cells) + " |")
    judged = gpu_goals(results) if m.get("gpu") else goals(results)
    if judged:
        lines += ["", "| ggnet : peer, or ggnet | goal, at most | measured | |"]
        lines += ["|---|---:|---:|---|"]
    for name, limit, value in judged:
        lines.append(
            f"| {name} | {limit:.3g} | {value:.3g} | {'' if value <= limit else 'missed'} |"
        )
    return "\n".join(["", *lines, "", ""])


def ratios(peer: dict, own: dict) -> list[str]:
    """A peer's time over ggnet's, with the call and kernels alone, as far as measured."""
    found = [key for key in ("seconds", "kernel_seconds") if key in peer and key in own]
    return [f"{peer[key] / own[key]:.3g}" for key in found]


def goals(results: dict) -> list[tuple[str, float, float]]:
    """Name, limit and measured value of each goal whose rows are there."""
    found, out = cases(results), []
    for name, key, other, limit in GOALS:
        rows = found.get(key, {})
        own = rows.get("ggnet")
        if own is None:
            continue
        if isinstance(other, Memory):
            extra = own.get("extra_bytes")
            value = None if extra is None else max(0.0, extra - other.result) / other.bytes
        elif other == "copy":
            value = results["ceilings"]["copy_gbs"] / own["gbs"]
        elif other == "float32":
            rows = found.get((*key[:3], "float32"), {})
            value = own["seconds"] / rows["ggnet"]["seconds"] if rows else None
        else:
            value = own["seconds"] / rows[other]["seconds"] if other in rows else None
        if value is not None:
            out.append((name, limit, value))
    return out


def gpu_goals(results: dict) -> list[tuple[str, float, float]]:
    """Name, limit and measured value of each GPU goal whose rows are there."""
    found, out = cases(results), []
    for name, key, other, time, limit in GPU_GOALS:
        own = found.get(key, {}).get("ggnet", {}).get(time)
        if other == "full":
            peer = found.get((*key[:2], "full", key[3]), {}).get("ggnet", {}).get(time)
        else:
            peer = 1e-3 if other is None else found.get(key, {}).get(other, {}).get(time)
        if own is not None and peer is not None:
            out.append((name, limit, own / peer))
    return out


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def draw(results: dict, path: Path) -> None:
    """How many times ggnet's time the peers take, on a logarithmic axis."""
    from matplotlib.figure import Figure

    groups = {key: rows for key, rows in cases(results).items() if len(rows) > 1}
    bars = [(key, peer) for key, rows in groups.items() for peer in PEERS if peer in rows]
    figure = Figure(figsize=(9, 0.22 * len(bars) + 0.34 * len(groups) + 0.8), layout="constrained")
    axes = figure.subplots()
    names = list(PEERS)
    at, ticks, labels = 0.0, [], []
    for (op, shape, mode, dtype), rows in groups.items():
        size, milli = shape.partition(",")[0], milliseconds(rows["ggnet"]["seconds"])
        first = at
        for peer in (p for p in names if p in rows):
            ratio = rows[peer]["seconds"] / rows["ggnet"]["seconds"]
            # From 1 outwards: to the right what is slower than ggnet, to the left what is faster.
            axes.barh(at, ratio - 1, left=1, height=0.8, color=f"C{names.index(peer)}")
            axes.annotate(
                f"{PEERS[peer]}  {ratio:.3g}", (max(ratio, 1), at), (3, 0), fontsize=7,
                textcoords="offset points", va="center",
            )  # fmt: skip
            at += 1
        ticks.append((first + at - 1) / 2)
        labels.append(f"{op} {size}\n{mode}, {dtype}\n{milli} ms")
        at += 1.5
    axes.set_xscale("log")
    axes.set_xlim(0.4, axes.get_xlim()[1] * 3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.invert_yaxis()
    m = results["machine"]
    axes.set_xlabel(f"time / ggnet's time ({m['cpu']}, threads: {m['threads']})")
    figure.savefig(path, dpi=130)
