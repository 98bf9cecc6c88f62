"""ONNX with convolutions in 8 bits, by ONNX Runtime's quantizer; kept if it finds nearly as much.

Rounding to 8 bits moves scores and boxes by more than an export may differ, so that the proof is
another: the mean AP on the run's own dataset.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ggnet.config import Config, override
from ggnet.data.annotations import Dataset
from ggnet.data.images import read_image
from ggnet.data.transforms import MEAN, STD
from ggnet.data.unseen import open_dataset
from ggnet.engine.checkpoint import Checkpoint
from ggnet.engine.distributed import join_workers
from ggnet.engine.evaluation import check_vocabulary, find_root, predict_split
from ggnet.engine.inference import Predictor
from ggnet.errors import UserError
from ggnet.eval.score import score
from ggnet.export import EXPORTERS, Runner
from ggnet.export.program import INPUT, OUTPUTS
from ggnet.export.run import (
    draft_folder,
    export,
    letterboxed_image,
    seconds_each,
    write_about,
    writing,
)
from ggnet.triplets import Detections, Triplets

CALIBRATION = 200  # images, of the training split, that the ranges of values are taken from
AP_TOLERANCE = 1.0  # points of mean AP that may be lost


@dataclass(frozen=True)
class Quantized:
    """What an export to 8 bits was found to be."""

    path: Path
    size: int  # bytes
    float_size: int  # of the ONNX file in float32
    images: int  # of the split
    split: str
    mean_ap: float  # of 100
    float_mean_ap: float  # of the network in PyTorch
    seconds: float  # an image, median
    float_seconds: float  # of the ONNX file in float32, in the same run


def quantize(
    checkpoint: Checkpoint,
    out: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    fixed_size: bool = True,
    root: str | None = None,
    console: Console | None = None,
) -> Quantized:
    """Write a checkpoint's network as ONNX with 8-bit convolutions, with OUT.json beside it.

    Args:
        size, batch, fixed_size: as of `export`.
        root: folder of the dataset; None: that of the run.
        console: where the progress of the evaluations is shown.

    Raises:
        UserError: as `export`; a dataset that is missing or does not fit; the mean AP falls by more
            than AP_TOLERANCE: nothing is kept.
    """
    out = Path(out)
    if out.suffix != EXPORTERS["onnx"].suffix:
        raise UserError(f"{out} must end in {EXPORTERS['onnx'].suffix}")
    size = size or tuple(checkpoint.config.data.input_size)
    config = override(checkpoint.config, [f"data.input_size=[{size[0]},{size[1]}]"])
    config.data.root = root or find_root(config.data.root, checkpoint.path, console)
    dataset = open_dataset(config.data)
    check_vocabulary(dataset, checkpoint.vocabulary, checkpoint.path)
    what = "onnx in 8 bits"
    with draft_folder(out) as folder:
        plain, draft = folder / f"float-{out.name}", folder / out.name
        checked = export(checkpoint, "onnx", plain, size=size, batch=batch, fixed_size=fixed_size)
        images = _calibration(dataset, size)
        with writing(what, out):
            _write(plain, draft, images, batch or 4)
            run, float_run = (EXPORTERS["onnx"].load(path) for path in (draft, plain))
        report = [
            _mean_ap(checkpoint, config, dataset, runner, batch, console) for runner in (None, run)
        ]
        (float_ap, count), (mean_ap, _) = report
        if mean_ap < float_ap - AP_TOLERANCE:
            raise UserError(
                f"in 8 bits the network finds less: mean AP {mean_ap:.2f} against {float_ap:.2f} "
                f"on split {dataset.split_to_score}, and at most {AP_TOLERANCE:g} may be lost. "
                "Nothing was kept; export it without --int8"
            )
        seconds, float_seconds = seconds_each([run, float_run], images[: batch or 1])
        written = draft.stat().st_size
        with writing(what, out):
            os.replace(draft, out)
    write_about(checkpoint, what, out, size=size, batch=batch, fixed_size=fixed_size)
    split = dataset.split_to_score
    return Quantized(
        *(out, written, checked.size, count, split, mean_ap, float_ap, seconds, float_seconds)
    )


def _calibration(dataset: Dataset, size: tuple[int, int]) -> np.ndarray:
    """(N, 3, height, width) images of the training split, evenly spaced."""
    split = "train" if "train" in dataset.splits else dataset.split_to_score
    records = dataset.load(split)
    chosen = np.linspace(0, len(records) - 1, min(CALIBRATION, len(records))).round().astype(int)
    return np.stack([letterboxed_image(read_image(records[i].path), size) for i in chosen])


def _write(plain: Path, draft: Path, images: np.ndarray, batch: int) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = self._iterate()

        def _iterate(self) -> Iterator[dict[str, np.ndarray]]:
            for i in range(0, len(images) - batch + 1, batch):
                yield {INPUT: images[i : i + batch]}

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    if len(images) < batch:
        images = np.resize(images, (batch, *images.shape[1:]))
    prepared = draft.with_name(f"prepared-{draft.name}")
    with _quiet():
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(draft),
            Batches(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice, which is for those who write one."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _mean_ap(
    checkpoint: Checkpoint,
    config: Config,
    dataset: Dataset,
    run: Runner | None,
    batch: int | None,
    console: Console | None,
) -> tuple[float, int]:
    """Mean AP of an exported file, or of the network itself, and the number of images."""
    split = dataset.split_to_score
    records, missing = dataset.load_to_score(split, partial=config.eval.partial)
    with join_workers("cpu") as worker:
        if run is None:
            predictor = Predictor.of(checkpoint, "cpu", config)
        else:
            predictor = ExportedPredictor.of(checkpoint, "cpu", config)
            predictor.run, predictor.batch = run, batch
        predictions = predict_split(predictor, records, worker, console)
    report = score(predictions, dataset, split, config.eval, records, missing)
    found = report.result.headline()
    if "mAP" not in found:
        raise UserError(
            f"split {split} of {dataset.root} has no annotated pair, so that no mean AP says what "
            "8 bits cost; give another dataset with --data, or export it without --int8"
        )
    return found["mAP"], len(records)


class ExportedPredictor(Predictor):
    """As `Predictor`, but that an exported program does the work.

    Attributes:
        run: the program.
        batch: images that it takes at once; None: any number.
    """

    run: Runner
    batch: int | None

    def _look(self, images: Tensor) -> tuple[Triplets, Detections, list[Tensor]]:
        mean, std = (np.asarray(x, np.float32).reshape(3, 1, 1) for x in (MEAN, STD))
        found = dict(zip(OUTPUTS, self._run(images.numpy() * std + mean), strict=True))
        values = {name: torch.from_numpy(value) for name, value in found.items()}
        stride, none = self.config.model.stride, torch.zeros_like(values["verbs"])
        for name in ("human_boxes", "object_boxes"):
            values[name] = values[name] / stride
        yx = (values.pop("points") / stride - 0.5).round().long().flip(2)
        # A program gives no boxes but those of its triplets, and does not count them.
        triplets = Triplets(**values, interaction_yx=yx, human_index=none, object_index=none)
        boxes = Detections(triplets.object_boxes, triplets.object_labels, triplets.object_scores)
        return triplets, boxes, []

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        """In batches of the program's size; the last one is filled up."""
        count, step = len(images), self.batch or len(images)
        images = np.concatenate([images, np.repeat(images[:1], -count % step, axis=0)])
        parts = [
            self.run(np.ascontiguousarray(images[i : i + step])) for i in range(0, count, step)
        ]
        return [np.concatenate(values)[:count] for values in zip(*parts, strict=True)]
