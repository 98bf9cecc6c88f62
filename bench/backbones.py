"""GGNet on timm's networks beside its own backbones: parameters, FLOPs, speed, at 512 x 512.

    python -m bench backbones               the table
    python -m bench backbones --counts      of parameters and FLOPs alone, which no machine changes
    python -m bench backbones --publish     and into docs/training.md

For HICO-DET's 117 verbs, with two gaze steps. FLOPs are multiplications and additions of the
convolutions and linear layers in one forward. One image at a time in float32, or on a GPU a batch
in bfloat16, as `python -m bench model` times them.
"""

import argparse

import torch

from bench import model, networks
from bench.__main__ import machine
from bench.loader import PAGE
from bench.publish import replace_between
from ggnet.config import ModelConfig
from ggnet.data.tables import hico_vocabulary
from ggnet.models import build_model

BEGIN = "<!-- python -m bench backbones --publish: begin -->"
BACKBONES = (
    "dla34",
    "hourglass104",
    "timm:convnext_tiny",
    "timm:resnet50",
    "timm:tf_efficientnetv2_s",
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench backbones",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbone", nargs="+", default=BACKBONES)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, help="images; default: 1, on a GPU 8")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--counts", action="store_true", help="measure no time")
    parser.add_argument("--publish", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    batch = options.batch or (8 if on_gpu else 1)
    timing = model.parse(
        ["--device", options.device, "--repeats", str(options.repeats), "--provider", "ggnet"]
        + ["--no-memory"]
    )
    torch.set_num_threads(timing.threads)
    lines = [
        "| `model.backbone` | parameters, M | GFLOP | inference, ms | training, images/s |",
        "|---|" + "---:|" * 4,
    ]
    for backbone in options.backbone:
        cells = [f"`{backbone}`", *counts(backbone, options.size), "–", "–"]
        if not options.counts:
            dtype = "bfloat16" if on_gpu else "float32"
            with torch.device(options.device):
                cells[3:] = speeds(backbone, dtype, batch, options.size, timing)
        lines.append("| " + " | ".join(cells) + " |")
    if not options.counts:
        where = machine(timing)
        lines += [
            "",
            f"On {where.get('gpu') or where['cpu']}, {timing.threads} threads, torch "
            f"{where['torch']}, {dtype}, images at once: {batch}.",
        ]
    print("\n".join(lines))
    if options.publish:
        replace_between(PAGE, BEGIN, "\n" + "\n".join(lines) + "\n\n")
    return 0


def counts(backbone: str, size: int) -> list[str]:
    """Millions of parameters and GFLOP an image: of the network, and of the backbone in it."""
    vocabulary = hico_vocabulary()
    config = ModelConfig(backbone=backbone, **networks.NETWORKS["ggnet"])
    with torch.device("meta"):
        network = build_model(config, len(vocabulary.objects), len(vocabulary.verbs)).eval()
        images, parts = torch.empty(1, 3, size, size), (network, network.backbone)
        work = [networks.flops(part, images) / 1e9 for part in parts]
    parameters = [sum(p.numel() for p in part.parameters()) / 1e6 for part in parts]
    return ["{:.1f} ({:.1f})".format(*parameters), "{:.0f} ({:.0f})".format(*work)]


def speeds(
    backbone: str, dtype: str, batch: int, size: int, timing: argparse.Namespace
) -> list[str]:
    """Milliseconds an image from images to triplets, and images a second of training."""
    cells = []
    for mode in ("inference", "train"):
        case = model.Case("ggnet", backbone, mode, dtype, batch, size)
        rows, skipped = model.compare(case, timing)
        if skipped:
            raise SystemExit(f"{case}: {skipped['ggnet']}")
        rate = rows[0]["images_per_second"]
        cells.append(f"{1e3 / rate:.1f}" if mode == "inference" else f"{rate:.2f}")
    return cells
