"""What `ggnet export` writes: size, differences from PyTorch, time of an image, a row a format.

    python -m bench.export --run runs/demo            the demo's network, and dla34 at 512 x 512
    python -m bench.export --publish bench/results/export.json      the table of docs/export.md

The differences are the largest over 50 images at three sizes, through a file of any size; size and
time are those of a file of the network's own size, in turns with PyTorch. The demo's images are
those of its test split; dla34 has random weights, scaled so that no two cells score alike, and sees
noise.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from bench.__main__ import machine
from bench.publish import ROOT, replace_between
from ggnet.config import Config
from ggnet.data.tables import hico_vocabulary
from ggnet.engine.checkpoint import Checkpoint, open_checkpoint
from ggnet.errors import UserError
from ggnet.export import EXPORTERS
from ggnet.export.int8 import quantize
from ggnet.export.run import Checked, export, letterboxed
from ggnet.io import atomic_write
from ggnet.models import build_model

IMAGES = 50
BEGIN = "<!-- python -m bench.export --publish: begin -->"
PAGE = ROOT / "docs/export.md"
TITLES = {"onnx": "ONNX", "openvino": "OpenVINO", "torch": "torch.export", "aoti": "AOTInductor"}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, help="a run of `ggnet demo`")
    parser.add_argument("--data", help="the demo's dataset (default: the one of --run)")
    parser.add_argument("--format", nargs="+", choices=list(EXPORTERS), default=list(EXPORTERS))
    parser.add_argument(
        "--network", nargs="+", choices=["demo", "dla34"], default=["demo", "dla34"]
    )
    parser.add_argument("--dla34-size", type=int, default=512, help="side of dla34's input")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("bench/results/export.json"))
    parser.add_argument("--publish", type=Path, help="write this file's table, and stop")
    options = parser.parse_args()
    if options.publish:
        table = markdown(json.loads(options.publish.read_text()))
        replace_between(PAGE, BEGIN, f"\n{table}\n\n")
        return 0
    if "demo" in options.network and options.run is None:
        parser.error("the demo's network needs --run, the folder of `ggnet demo`")
    torch.set_num_threads(options.threads)
    options.device, options.cpu_time = "cpu", False
    results = {"machine": machine(options), "rows": []}
    for name in options.network:
        if name == "demo":
            checkpoint, images = demo(options.run, options.data)
        else:
            checkpoint, images = dla34(options.dla34_size)
        if name == "demo" and "onnx" in options.format:
            results["int8"] = quantized(checkpoint, options.data)
        for format_ in options.format:
            row = {"network": name, "format": format_, **measured(checkpoint, format_, images)}
            print(json.dumps(row), flush=True)
            results["rows"].append(row)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(options.out, "w") as file:
                json.dump(results, file, indent=1)
    return 0


def measured(checkpoint: Checkpoint, format_: str, images: list[np.ndarray]) -> dict:
    """A row: of files of the network's own size and of any size."""
    size = images[0].shape[2:]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"model{EXPORTERS[format_].suffix}"
        try:
            fixed = export(checkpoint, format_, out, size=size, images=images[0][:2])
            compared = export(checkpoint, format_, out, size=size, images=images, fixed_size=False)
        except UserError as error:
            return {"error": str(error)}
    return {
        "size": list(size),
        "bytes": fixed.size,
        "images": sum(map(len, images)),
        "sizes": [list(group.shape[2:]) for group in images],
        **differences(compared),
        "seconds": fixed.seconds,
        "torch_seconds": fixed.torch_seconds,
    }


def quantized(checkpoint: Checkpoint, root: str | None) -> dict:
    """ONNX in 8 bits: its mean AP beside the network's, and its time beside float32's."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = quantize(checkpoint, Path(folder) / "model.onnx", root=root)
        except UserError as error:
            return {"error": str(error)}
    return {name: value for name, value in asdict(found).items() if name != "path"}


def differences(checked: Checked) -> dict:
    return {
        "score_difference": checked.score_difference,
        "box_difference": checked.box_difference,
        "others": checked.others,
    }


def demo(run: Path, root: str | None) -> tuple[Checkpoint, list[np.ndarray]]:
    """The network of `ggnet demo`, and images of its test split at three sizes."""
    checkpoint = open_checkpoint(run)
    folder = Path(root or checkpoint.config.data.root) / "images" / "test"
    height, width = checkpoint.config.data.input_size
    sizes = [(height, width), (height - 32, width), (height + 32, width + 64)]
    shares = shared(len(sizes))
    begins = np.cumsum([0, *shares])
    return checkpoint, [
        letterboxed(folder, size)[begin : begin + count]
        for size, begin, count in zip(sizes, begins, shares, strict=False)
    ]


def dla34(side: int) -> tuple[Checkpoint, list[np.ndarray]]:
    """GGNet on DLA-34 for HICO-DET with random weights, and noise."""
    config = Config()
    config.model.backbone = "dla34"
    config.data.input_size = (side, side)
    vocabulary = hico_vocabulary()
    torch.manual_seed(0)
    network = build_model(config.model, len(vocabulary.objects), len(vocabulary.verbs))
    rng = np.random.default_rng(0)
    sizes = [(side, side), (side - 128, side), (side, side + 128)]
    images = [
        rng.random((count, 3, *size), dtype=np.float32)
        for size, count in zip(sizes, shared(len(sizes)), strict=True)
    ]
    scatter(network, torch.from_numpy(images[0][:2]))
    state = {"model": network.state_dict(), "ema": None}
    return Checkpoint(Path("dla34"), state, config, vocabulary), images


@torch.no_grad()
def scatter(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Give the features of a fresh network a spread, and points that stray from their grid."""
    for name, part in network.named_modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
        elif name.startswith("heads") and isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.05)
    network.train()((images - 0.45) / 0.28)


def shared(parts: int) -> list[int]:
    """IMAGES in nearly equal parts."""
    return [(IMAGES + i) // parts for i in range(parts)]


def markdown(results: dict) -> str:
    m = results["machine"]
    lines = [
        "Every format beside PyTorch (`python -m bench.export --run runs/demo`): the largest",
        "differences over 50 images at three sizes, in how many triplets rounding chose another",
        "box, and the median time of an image, in turns with PyTorch. dla34 has random weights,",
        "HICO-DET's names and two gaze steps.",
        f"{m['cpu']}, {m['isa']}, threads: {m['threads']}, torch {m['torch']}.",
        "",
        "| network | format | MB | scores differ | boxes differ, px | other boxes | ms an image | "
        "PyTorch, ms |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results["rows"]:
        height, width = row["size"]
        lines.append(
            f"| {row['network']}, {height} x {width} | {TITLES[row['format']]} | "
            f"{row['bytes'] / 1e6:.1f} | {row['score_difference']:.1g} | "
            f"{row['box_difference']:.1g} | {row['others']} | {1e3 * row['seconds']:.1f} | "
            f"{1e3 * row['torch_seconds']:.1f} |"
        )
    if int8 := results.get("int8"):
        lines += [
            "",
            f"The demo's network as ONNX with `--int8`: {int8['size'] / 1e6:.1f} MB; mean AP "
            f"{int8['mean_ap']:.2f} on the {int8['images']} images of split {int8['split']}, in "
            f"float32 {int8['float_mean_ap']:.2f}; {1e3 * int8['seconds']:.1f} ms an image, in "
            f"float32 {1e3 * int8['float_seconds']:.1f} ms.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
