"""The gaze steps at some cells only (`eval.gaze_cells`): what that saves, and what it loses.

    python -m bench.sparse --run runs/demo                         both networks
    python -m bench.sparse --publish bench/results/sparse-*.json   page and picture of docs/paper.md

Against the number of cells: the demo's mAP on its test split, the share of the 100 best triplets
that stay (same verb, object class and boxes), and the time of one image, in rounds with the dense
network. hourglass104 at 512 x 512 has random weights, whose glance knows nothing of the gaze's
scores: its overlap is what chance gives.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from bench import measure
from bench.__main__ import machine
from bench.export import scatter
from bench.publish import ROOT, milliseconds, replace_between
from ggnet.config import Config, load_config
from ggnet.cores import usable_cores
from ggnet.data.tables import hico_vocabulary
from ggnet.engine.checkpoint import Checkpoint, open_checkpoint
from ggnet.engine.evaluation import evaluate_checkpoint
from ggnet.engine.inference import Predictor
from ggnet.eval.predictions import ImagePrediction
from ggnet.io import atomic_write
from ggnet.models import build_model

PAGE, PICTURE = ROOT / "docs/paper.md", ROOT / "docs/sparse-gaze.png"
BEGIN = "<!-- python -m bench.sparse --publish: begin -->"
NETWORKS = ("demo", "hourglass104")
IMAGES = 8  # of noise, for hourglass104's overlap


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sparse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, help="a run of `ggnet demo`")
    parser.add_argument("--data", help="the demo's dataset (default: the one of --run)")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--size", type=int, default=512, help="side of hourglass104's input")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for the times")
    parser.add_argument(
        "--out", type=Path, default=Path("bench/results"), help="folder of sparse-NETWORK.json"
    )
    parser.add_argument("--publish", type=Path, nargs="+", help="write these files' page, and stop")
    options = parser.parse_args()
    if options.publish:
        found = [json.loads(path.read_text()) for path in options.publish]
        replace_between(PAGE, BEGIN, "".join(map(markdown, found)) + "\n")
        draw(found, PICTURE)
        return 0
    if "demo" in options.network and options.run is None:
        parser.error("the demo's network needs --run, the folder of `ggnet demo`")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.device, options.cpu_time = "cpu", False
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.network:
        rows = demo(options) if name == "demo" else hourglass(options)
        results = {"machine": machine(options), "network": name, "rows": rows}
        with atomic_write(options.out / f"sparse-{name}.json", "w") as file:
            json.dump(results, file, indent=1)
        print(markdown(results))
    return 0


def demo(options: argparse.Namespace) -> list[dict]:
    """The demo's checkpoint on its test split."""
    checkpoint = open_checkpoint(options.run)
    predictor = Predictor.of(checkpoint, "cpu")
    images = [np.zeros((128, 128, 3), np.uint8)]
    rows = timed(predictor, images, options)
    dense = None
    for row in rows:
        predictions, row["ap"] = scored(checkpoint, row["cells"], options.data)
        dense = dense or predictions  # the first row's
        row["overlap"] = overlap(dense, predictions)
    return rows


def scored(
    checkpoint: Checkpoint, cells: int | None, root: str | None
) -> tuple[list[ImagePrediction], float]:
    settings = [f"eval.gaze_cells={json.dumps(cells)}"]
    settings += [f"data.root={json.dumps(root)}"] if root else []
    with tempfile.TemporaryDirectory() as folder:
        report = evaluate_checkpoint(checkpoint, settings, Path(folder))
    return report.predictions, report.result.headline()["mAP"]


def hourglass(options: argparse.Namespace) -> list[dict]:
    """GGNet with hourglass104 and two gaze steps, random weights, on noise."""
    side = options.size
    config = load_config("vcoco_hourglass", [f"data.input_size=[{side},{side}]"])
    vocabulary = hico_vocabulary()
    network = build_model(config.model, len(vocabulary.objects), len(vocabulary.verbs))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(IMAGES)]
    predictor = Predictor(network, vocabulary, config, "cpu")
    scatter(network, torch.rand(2, 3, side, side))
    rows = timed(predictor, images[:1], options)
    dense = None
    for row in rows:
        network.set_gaze_cells(row["cells"])
        predictions = [predictor(*predictor.prepare([image]))[0] for image in images]
        dense = dense or predictions
        row["overlap"] = overlap(dense, predictions)
    return rows


def timed(predictor: Predictor, images: list[np.ndarray], options) -> list[dict]:
    """A row for all cells (null), then for ever fewer: medians of one image's seconds."""
    network, config = predictor.detector.network, predictor.config
    inputs = predictor.prepare(images)
    every = cells_of(config)
    counts = [None, *(every // 2**n for n in range(1, 9))]

    def one(count: int | None):
        def run() -> float:
            network.set_gaze_cells(count)
            start = measure.now()
            predictor(*inputs)
            return measure.now() - start

        return run

    steps = {str(count): one(count) for count in counts}
    times = measure.interleave(steps, options.repeats, options.budget)
    network.set_gaze_cells(None)
    return [
        {"cells": count, "of": every, "seconds": measure.median(times[str(count)])}
        for count in counts
    ]


def cells_of(config: Config) -> int:
    height, width = config.data.input_size
    return height // config.model.stride * (width // config.model.stride)


def overlap(dense: list[ImagePrediction], others: list[ImagePrediction]) -> float:
    """Share of the dense network's triplets that are found again."""
    found = kept = 0
    for mine, theirs in zip(dense, others, strict=True):
        known = set(keys(mine))
        found += len(known)
        kept += len(known & set(keys(theirs)))
    return kept / found


def keys(prediction: ImagePrediction) -> list[tuple]:
    """What tells a triplet from others, boxes to a tenth of a pixel, if it has any score."""
    boxes = np.hstack([prediction.human_boxes, prediction.object_boxes]).round(1).tolist()
    labels = zip(prediction.verbs.tolist(), prediction.object_labels.tolist(), strict=True)
    scores = prediction.scores.tolist()
    rows = zip(labels, boxes, scores, strict=True)
    return [(*label, *box) for label, box, score in rows if score > 0]


def markdown(results: dict) -> str:
    m = results["machine"]
    lines = [
        f"{m['cpu']}, {m['isa']}, threads: {m['threads']}, torch {m['torch']}, float32.",
        "",
        "| network | cells | mAP | overlap of the top 100 | ms an image | dense = 1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in results["rows"]:
        cells = f"{row['cells']} of {row['of']}" if row["cells"] else f"all {row['of']}"
        ap = f"{row['ap']:.2f}" if "ap" in row else ""
        ratio = row["seconds"] / results["rows"][0]["seconds"]
        lines.append(
            f"| {results['network']} | {cells} | {ap} | {row['overlap']:.3f} | "
            f"{milliseconds(row['seconds'])} | {ratio:.2f} |"
        )
    return "\n".join(["", *lines, ""])


def draw(found: list[dict], path: Path) -> None:
    """The shares that stay, and the time, against the share of the cells."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for results, plot in zip(found, axes, strict=True):
        rows = results["rows"]
        share = [(row["cells"] or row["of"]) / row["of"] for row in rows]
        dense = rows[0]
        if "ap" in dense:
            plot.plot(share, [row["ap"] / (dense["ap"] or 1) for row in rows], "C0o-", label="mAP")
        plot.plot(share, [row["overlap"] for row in rows], "C1s-", label="overlap of the top 100")
        plot.plot(share, [row["seconds"] / dense["seconds"] for row in rows], "C2^-", label="time")
        plot.set_xscale("log", base=2)
        plot.set_title(f"{results['network']}, {dense['of']} cells", fontsize=10)
        plot.set_xlabel("share of the cells at which it gazes")
        plot.set_ylim(0, 1.4)
        plot.grid(alpha=0.3)
    axes[0].set_ylabel("dense = 1")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
