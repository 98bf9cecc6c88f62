"""Writing an export, and proving that it does what the network does before it is kept."""

import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import ggnet
from ggnet.data.inputs import find_inputs
from ggnet.data.transforms import letterbox_affine, warp
from ggnet.engine.checkpoint import Checkpoint
from ggnet.engine.inference import Predictor
from ggnet.errors import UserError
from ggnet.export import EXPORTERS, Exporter, Runner
from ggnet.export.program import INPUT, MOST, OUTPUTS, Deployed, trace
from ggnet.io import atomic_write
from ggnet.models import backbone_class

SCORE_TOLERANCE, BOX_TOLERANCE = 1e-4, 0.05  # of scores from 0 to 1; of boxes in pixels
LEAST_SCORE = 1e-3  # of the triplets that are compared
# Of two boxes that match nearly equally well, rounding chooses one: the share of triplets in which
# it may choose another.
OTHER_SHARE = 0.01
_SEED, _ROUNDS = 0, 5


@dataclass(frozen=True)
class Checked:
    """What an export was found to be."""

    path: Path
    size: int  # bytes, of all its files
    images: int  # compared
    score_difference: float  # largest
    box_difference: float  # largest, in pixels, but for the next
    others: int  # triplets with another box that matches as well
    seconds: float  # an image, median
    torch_seconds: float  # the same of PyTorch, in the same run


def export(
    checkpoint: Checkpoint,
    format_: str,
    out: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    fixed_size: bool = True,
    images: np.ndarray | Sequence[np.ndarray] | None = None,
) -> Checked:
    """Write a checkpoint's network in a format of EXPORTERS, with OUT.json beside it.

    The file is run on images of several counts and sizes, as far as it takes them, and compared
    with PyTorch; it is put in its place only if it finds the same.

    Args:
        size: height and width of the input; None: those of the network's training.
        batch: images at once; None: any number up to MOST.
        fixed_size: False: any multiples of the backbone's `size_multiple`.
        images: (N, 3, height, width) float32 RGB from 0 to 1 to compare on, or of a program of any
            size several of them; None: noise.

    Raises:
        UserError: an unknown format, size or batch; a package that is missing; the written program
            finds something else; a file cannot be written.
    """
    exporter = _exporter(format_)
    config = checkpoint.config
    size = size or tuple(config.data.input_size)
    multiple = backbone_class(config.model.backbone).size_multiple
    if any(side < 1 or side % multiple for side in size):
        raise UserError(
            f"size is {size[0]}x{size[1]}; backbone {config.model.backbone} needs multiples of "
            f"{multiple}"
        )
    if batch is not None and not 1 <= batch <= MOST:
        raise UserError(f"batch is {batch}; expected 1 to {MOST}, or any")
    out = Path(out)
    if out.suffix != exporter.suffix:
        raise UserError(f"{out} must end in {exporter.suffix}, as {format_} files do")
    if config.eval.gaze_cells is not None:
        raise UserError(
            f"{checkpoint.path} has eval.gaze_cells={config.eval.gaze_cells}, whose shapes depend "
            "on the image, which an exported program's cannot; expected null"
        )
    predictor = Predictor.of(checkpoint, "cpu")
    module = Deployed(predictor.detector, config.model.stride).eval()
    program = trace(module, size, size_multiple=multiple, batch=batch, fixed_size=fixed_size)
    with draft_folder(out) as folder:
        draft = folder / out.name
        with writing(format_, out):
            exporter.write(program, draft)
            run = exporter.load(draft)
        cases = _cases(size, batch, fixed_size, multiple, images)
        found = _compare(run, module, cases, format_)
        seconds = seconds_each([run, lambda x: _reference(module, x)], cases[0])
        files = [path for path in folder.iterdir() if path.is_file()]
        total = sum(path.stat().st_size for path in files)
        with writing(format_, out):
            for path in files:
                os.replace(path, out.parent / path.name)
    write_about(
        checkpoint, f"ggnet export to {format_}", out, size=size, batch=batch, fixed_size=fixed_size
    )
    return Checked(out, total, sum(len(case) for case in cases), *found, *seconds)


@contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` for what is not proven yet; it goes with the block.

    Raises:
        UserError: it cannot be made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=".export.", dir=out.parent)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    with place as folder:
        yield Path(folder)


@contextmanager
def writing(what: str, out: Path) -> Iterator[None]:
    """For writers and runtimes: their warnings are about their own inside, and they have exceptions
    of their own.

    Raises:
        UserError: in place of any.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the {what} file cannot be made ({type(error).__name__}: {reason}); nothing was kept"
        ) from error


def write_about(
    checkpoint: Checkpoint,
    what: str,
    out: Path,
    *,
    size: tuple[int, int],
    batch: int | None,
    fixed_size: bool,
) -> None:
    """Write OUT.json: what the program takes and gives, and what its indices mean."""
    vocabulary = checkpoint.vocabulary
    multiple = backbone_class(checkpoint.config.model.backbone).size_multiple
    about = {
        "format": what,
        "ggnet": ggnet.__version__,
        "input": {
            "name": INPUT,
            "shape": [batch or "1 to 64", 3, *(size if fixed_size else (f"{multiple}n",) * 2)],
            "values": "float32 RGB from 0 to 1, the image letterboxed: scaled to fit, centered, "
            "black beside it",
        },
        "outputs": list(OUTPUTS),
        "objects": list(vocabulary.objects),
        "verbs": list(vocabulary.verbs),
        "threshold": checkpoint.threshold,
    }
    with atomic_write(out.with_name(f"{out.name}.json"), "w") as file:
        file.write(json.dumps(about, indent=1) + "\n")


def letterboxed(folder: str | os.PathLike, size: tuple[int, int]) -> np.ndarray:
    """(N, 3, height, width) float32 RGB from 0 to 1 of the images in a folder.

    Raises:
        UserError: no images there, or one that cannot be read.
    """
    return np.stack(
        [
            letterboxed_image(frame.image, size)
            for one in find_inputs([folder]).inputs
            for frame in one.frames()
        ]
    )


def letterboxed_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (3, height, width) float32 from 0 to 1, as a program takes it."""
    height, width = image.shape[:2]
    pixels = warp(image, letterbox_affine(width, height, size), size)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / 255


def _exporter(name: str) -> Exporter:
    if name not in EXPORTERS:
        raise UserError(f"no format {name!r}; expected one of {', '.join(EXPORTERS)}")
    exporter = EXPORTERS[name]
    missing = [package for package in exporter.packages if find_spec(package) is None]
    if missing:
        raise UserError(
            f"--format {name} needs {', '.join(missing)}: pip install {' '.join(missing)}"
        )
    return exporter


def _cases(
    size: tuple[int, int],
    batch: int | None,
    fixed_size: bool,
    multiple: int,
    images: np.ndarray | Sequence[np.ndarray] | None,
) -> list[np.ndarray]:
    """Batches to compare on: of the size, and of others where the program takes them."""
    rng = np.random.default_rng(_SEED)

    def noise(count: int, height: int, width: int) -> np.ndarray:
        return rng.random((count, 3, height, width), dtype=np.float32)

    count = batch or 1
    if images is None:
        images = noise(2 * count, *size)
    groups = [images] if isinstance(images, np.ndarray) else images
    cases = [x[i : i + count] for x in groups for i in range(0, len(x) - count + 1, count)]
    if batch is None:
        cases.append(np.concatenate([cases[0][:1], noise(2, *cases[0].shape[2:])]))
    if not fixed_size:
        height, width = size
        cases += [
            noise(count, height + multiple, width),
            noise(count, height, width + 2 * multiple),
        ]
    return cases


def _compare(
    run: Runner, module: Deployed, cases: Sequence[np.ndarray], format_: str
) -> tuple[float, float, int]:
    """The largest differences of scores and boxes, and the number of triplets with another box,
    whose score is another, too.

    Raises:
        UserError: they are beyond the tolerances, or too many triplets are others or missing.
    """
    differences = [(0.0, 0.0)]
    for case in cases:
        ours, theirs = _by_name(run(case)), _by_name(_reference(module, case))
        if not all(np.isfinite(ours[name]).all() for name in OUTPUTS):
            differences.append((np.nan, np.nan))
        for b in range(len(case)):
            # Of those that score as the last one does, rounding chooses which are among the K.
            least = max(LEAST_SCORE, theirs["scores"][b].min() + SCORE_TOLERANCE)
            for some, others in ((theirs, ours), (ours, theirs)):  # none missing, none too many
                chosen = np.flatnonzero(some["scores"][b] > least)
                differences += [_nearest(some, others, b, i) for i in chosen]
    scores, boxes = np.array(differences).T
    other = boxes > BOX_TOLERANCE
    score, box = float(scores[~other].max()), float(boxes[~other].max())  # NaN where one is
    if not (score <= SCORE_TOLERANCE and other.mean() <= OTHER_SHARE):
        raise UserError(
            f"the {format_} program does not find what the network finds: scores differ by up to "
            f"{score:.2g} (at most {SCORE_TOLERANCE:g} is allowed), and {other.sum()} of "
            f"{len(boxes) - 1} triplets have boxes that are more than {BOX_TOLERANCE:g} pixels off "
            f"(at most {OTHER_SHARE:.0%}). Nothing was kept; please report it with `ggnet env`"
        )
    return score, box, int(other.sum())


def _nearest(
    some: dict[str, np.ndarray], others: dict[str, np.ndarray], b: int, i: int
) -> tuple[float, float]:
    """Differences of the score and boxes of triplet i to the most similar one of the others."""
    same = (others["verbs"][b] == some["verbs"][b, i]) & (
        others["object_labels"][b] == some["object_labels"][b, i]
    )
    if not same.any():
        return float(some["scores"][b, i]), float("inf")
    boxes = np.maximum(
        *(
            np.abs(others[name][b] - some[name][b, i]).max(axis=1)
            for name in ("human_boxes", "object_boxes")
        )
    )
    scores = np.abs(others["scores"][b] - some["scores"][b, i])
    cost = np.where(same, boxes / BOX_TOLERANCE + scores / SCORE_TOLERANCE, np.inf)
    best = int(cost.argmin())
    return float(scores[best]), float(boxes[best])


def _by_name(values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(OUTPUTS, values, strict=True))


@torch.inference_mode()
def _reference(module: Deployed, images: np.ndarray) -> list[np.ndarray]:
    return [value.numpy() for value in module(torch.from_numpy(images))]


def seconds_each(runs: Sequence[Callable[[np.ndarray], object]], images: np.ndarray) -> list[float]:
    """Median seconds an image of each, in turns."""
    images = np.ascontiguousarray(images)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(_ROUNDS):
        for run, mine in zip(runs, times, strict=True):
            start = time.perf_counter()
            run(images)
            mine.append((time.perf_counter() - start) / len(images))
    return [statistics.median(mine) for mine in times]
