"""How fast training images are made: stages, peers, a loader process and its memory.

    python -m bench loader                  everything, on generated JPEGs
    python -m bench loader --publish        and into docs/training.md

Stages and pipelines are timed on one thread in its CPU time, in interleaved rounds, so that a busy
machine shows little in them. Peers (albumentations, torchvision.transforms.v2) do what comes
closest to one sample: decode, random crop and size, mirror, jitter, normalize to float32; they draw
no lighting noise and make no targets. What is not installed is left out. A loader process fills
batches for a simulated device, which takes them at --rate; data wait is the time it stood still.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing import active_children, get_context
from pathlib import Path

import cv2
import numpy as np
import torch

from bench.__main__ import machine
from bench.publish import replace_between
from ggnet.config import Config, load_config
from ggnet.cores import usable_cores
from ggnet.data import transforms
from ggnet.data.annotations import ImageRecord
from ggnet.data.dataset import HOIDataset, collate, make_loader
from ggnet.data.images import read_image
from ggnet.data.preprocess import preprocess
from ggnet.data.tables import hico_vocabulary
from ggnet.data.targets import build_targets

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
BEGIN = "<!-- python -m bench loader --publish: begin -->"
HICO_TRAIN = 38_118  # images of HICO-DET's training split


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench loader",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=24, help="JPEGs to generate")
    parser.add_argument("--size", default="640x480", help="of the images (default: %(default)s)")
    parser.add_argument("--input", type=int, default=512, help="side of the network's input")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2, help="for the simulated device")
    parser.add_argument("--rate", type=float, default=150.0, help="its images a second")
    parser.add_argument("--steps", type=int, default=200, help="its steps, of 14 images")
    parser.add_argument("--records", type=int, default=HICO_TRAIN, help="for the memory")
    parser.add_argument("--publish", action="store_true", help=f"write the tables into {PAGE.name}")
    options = parser.parse_args(arguments)
    options.threads, options.device, options.cpu_time = 1, "cpu", True
    width, height = (int(side) for side in options.size.split("x"))
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    config = load_config(
        None, [f"data.input_size=[{options.input},{options.input}]", "train.batch_size=14"]
    )
    of_records = memory(options.records)  # first: what is forked later shares memory
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(Path(folder), options.images, width, height)
        kilobytes = sum(record.path.stat().st_size for record in records) / len(records) / 1000
        pipelines = {**ours(records, config), **peers(records, options.input)}
        samples = interleaved(pipelines, options.rounds)
        stages = interleaved(stage_calls(records[0], config), options.rounds)
        worker = one_worker(records, config, options)
        wait = data_wait(records, config, options)
    lines = [
        f"{options.images} JPEGs of {width} x {height} pixels and {kilobytes:.0f} kB, input "
        f"{options.input} x {options.input}; one thread of {machine(options)['cpu']}, CPU time, "
        f"the best of {options.rounds} interleaved rounds.",
        "",
        "| a training sample | ms | images/s a core |",
        "|---|---:|---:|",
        *(f"| {name} | {1e3 * s:.2f} | {1 / s:.0f} |" for name, s in samples.items()),
        "",
        "| stage | ms |",
        "|---|---:|",
        *(f"| {name} | {1e3 * seconds:.2f} |" for name, seconds in stages.items()),
        "",
        f"A loader process makes and sends {worker:.0f} images/s of its CPU time, as bytes. Beside "
        f"a simulated device of {options.rate:.0f} images/s, {options.workers} of them on "
        f"{usable_cores()} cores let it wait {100 * wait:.1f} % of {options.steps} steps. "
        f"{of_records}",
    ]
    print("\n".join(lines))
    if options.publish:
        replace_between(PAGE, BEGIN, "\n" + "\n".join(lines) + "\n\n")
    return 0


def make_records(folder: Path, count: int, width: int, height: int) -> list[ImageRecord]:
    """Images with details of all sizes, as photos have, each with four boxes and three pairs."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        image = np.zeros((height, width, 3), np.float32)
        for size in (2, 4, 8, 16, 32, 64, 128):
            noise = rng.normal(size=(height // size + 2, width // size + 2, 3)).astype(np.float32)
            image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * size**0.6
        image = (image - image.mean()) * (50 / image.std()) + 115
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        records.append(record(path, rng, width, height))
    return records


def record(path: Path, rng: np.random.Generator, width: int, height: int) -> ImageRecord:
    """Four boxes, of which the first is a person, and three pairs."""
    corners = np.sort(rng.uniform(0, [[[width, height]]], (4, 2, 2)), axis=1).reshape(4, 4)
    labels = np.array([0, *rng.integers(1, 80, 3)])
    pairs = np.stack([np.zeros(3, int), np.arange(1, 4), rng.integers(0, 117, 3)], axis=1)
    return ImageRecord(path.name, path.stem, path, corners, labels, pairs)


def interleaved(calls: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """CPU seconds of one image, the least of all rounds; each call says how many it made."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):  # the first is for caches
        for name, call in calls.items():
            begin = time.thread_time()
            count = call()
            if number:
                times[name].append((time.thread_time() - begin) / count)
    return {name: min(values) for name, values in times.items()}


def ours(records: list[ImageRecord], config: Config) -> dict[str, Callable[[], int]]:
    """Whole batches, targets included."""
    dataset = HOIDataset(records, hico_vocabulary(), config, train=True)
    epochs = iter(range(10**9))

    def run(as_bytes: bool) -> int:
        epoch = next(epochs)
        collate([dataset[epoch, index] for index in range(len(records))], as_bytes)
        return len(records)

    return {
        "ggnet, bytes for a GPU": lambda: run(True),
        "ggnet, float32 for a CPU": lambda: run(False),
    }


def peers(records: list[ImageRecord], side: int) -> dict[str, Callable[[], int]]:
    """What is installed of albumentations and torchvision."""
    found = {}
    mean, std = transforms.MEAN.tolist(), transforms.STD.tolist()
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    try:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network
        import albumentations
    except ImportError as error:
        print(f"without albumentations: {error}")
    else:
        steps = [
            albumentations.RandomResizedCrop((side, side), scale=(0.5, 1.0)),
            albumentations.HorizontalFlip(),
            albumentations.ColorJitter(**jitter, hue=(0, 0), p=1),
            albumentations.Normalize(mean, std),
        ]
        compose = albumentations.Compose(steps)

        def albumentations_() -> int:
            images = [
                compose(image=cv2.cvtColor(cv2.imread(str(r.path)), cv2.COLOR_BGR2RGB))["image"]
                for r in records
            ]
            np.stack(images)
            return len(records)

        found[f"albumentations {albumentations.__version__}"] = albumentations_
    try:
        import torchvision
        from torchvision.io import decode_jpeg, read_file
        from torchvision.transforms import v2
    except (ImportError, RuntimeError) as error:
        print(f"without torchvision: {error}")
    else:
        transform = v2.Compose(
            [
                v2.RandomResizedCrop((side, side), scale=(0.5, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(**jitter),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
            ]
        )

        def torchvision_() -> int:
            torch.stack([transform(decode_jpeg(read_file(str(r.path)))) for r in records])
            return len(records)

        found[f"torchvision {torchvision.__version__}, v2"] = torchvision_
    return found


def stage_calls(record: ImageRecord, config: Config) -> dict[str, Callable[[], int]]:
    """The parts of one sample."""
    image, vocabulary = read_image(record.path), hico_vocabulary()
    rng, size = np.random.default_rng(0), config.data.input_size
    found = preprocess(image, config.data, rng=rng)
    out = np.empty((*size, 3), np.float32)
    cells = transforms.transform_boxes(record.boxes, found.meta.affine) / 4

    def times(call: Callable[[], object], count: int = 8) -> Callable[[], int]:
        def run() -> int:
            for _ in range(count):
                call()
            return count

        return run

    return {
        "decode": times(lambda: read_image(record.path)),
        "crop and size": times(lambda: transforms.warp(image, found.meta.affine, size)),
        "draw the color map": times(
            lambda: transforms.normalizing(transforms.jitter(found.pixels, rng))
        ),
        "apply it, for a CPU": times(
            lambda: transforms.apply_colors(found.pixels, found.colors, out)
        ),
        "normalize alone (evaluation)": times(
            lambda: transforms.apply_colors(found.pixels, None, out)
        ),
        "targets": times(
            lambda: build_targets(
                cells,
                record.labels,
                record.pairs,
                vocabulary.valid_pairs,
                (size[0] // 4, size[1] // 4),
                "none",
                config.loss.hard_negative_radius,
            )
        ),
    }


def one_worker(records: list[ImageRecord], config: Config, options: argparse.Namespace) -> float:
    """Images a second of CPU time of one loader process."""
    config = config.model_copy(deep=True)
    config.data.workers = 1
    many = records * -(-14 * 21 // len(records))
    loader = make_loader(many, hico_vocabulary(), config, train=True, device=torch.device("cuda"))
    batches = iter(loader)
    next(batches)
    [worker] = active_children()
    begin = cpu_seconds(worker.pid)
    images = sum(len(next(batches)) for _ in range(20))
    return images / max(cpu_seconds(worker.pid) - begin, 1e-3)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, from Linux's /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(subprocess.check_output(["getconf", "CLK_TCK"]))
    return (int(fields[11]) + int(fields[12])) / ticks


def data_wait(records: list[ImageRecord], config: Config, options: argparse.Namespace) -> float:
    """The share of its time that a device of options.rate waits for images."""
    config = config.model_copy(deep=True)
    config.data.workers = options.workers
    many = records * -(-14 * (options.steps + 1) // len(records))
    loader = make_loader(many, hico_vocabulary(), config, train=True, device=torch.device("cuda"))
    batches = iter(loader)
    next(batches)
    waited, begin = 0.0, time.perf_counter()
    for _ in range(options.steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        time.sleep(len(batch) / options.rate)
    return waited / (time.perf_counter() - begin)


def memory(count: int) -> str:
    """What the records of a training split take, and what a loader process adds by reading all."""
    before = private_bytes()
    rng = np.random.default_rng(0)
    config = load_config(None, [])
    records = [record(Path(f"images/{n:08}.jpg"), rng, 640, 480) for n in range(count)]
    dataset = HOIDataset(records, hico_vocabulary(), config, train=True)
    del records
    own = private_bytes() - before
    pipe, theirs = get_context("fork").Pipe()
    process = get_context("fork").Process(target=_read_all, args=(dataset, theirs))
    process.start()
    added = pipe.recv()
    process.join()
    return (
        f"{count:,} records take {own / 1e6:.0f} MB in the main process; a loader process that has "
        f"read them all has {added / 1e6:.0f} MB of its own more."
    )


def _read_all(dataset: HOIDataset, pipe) -> None:
    before = private_bytes()
    for index in np.random.default_rng(0).permutation(len(dataset)):
        record = dataset.records[int(index)]
        record.boxes.sum() + record.labels.sum() + record.pairs.sum() + len(record.file_name)
    pipe.send(private_bytes() - before)


def private_bytes() -> int:
    """Memory that only this process has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
