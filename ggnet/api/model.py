"""A trained network as a function: images in, triplets with names out."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ggnet.api.result import Result, check_threshold
from ggnet.data.inputs import Frame, Input, as_inputs
from ggnet.engine import hub
from ggnet.engine.checkpoint import Checkpoint, open_checkpoint
from ggnet.engine.inference import Predictor
from ggnet.errors import UserError
from ggnet.viz.defaults import THRESHOLD

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def load(
    source: str | os.PathLike,
    *,
    device: torch.device | str = "auto",
    dtype: str = "float32",
    compile: bool = False,
    capture: bool = False,
) -> "Model":
    """A trained network, ready for images.

    Args:
        source: a run folder, a checkpoint, published weights that `ggnet import` converted, a
            folder of `Model.save_pretrained`, or the name of such a repository on the Hugging
            Face hub.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".
        dtype: what it computes in: "float32", "bfloat16" or "float16".
        compile: use torch.compile; the first image takes minutes.
        capture: make one CUDA graph of it all; on a GPU only.

    Raises:
        UserError: nothing there that can be loaded, or no such device.

    Example:
        >>> model = ggnet.load("runs/demo")
    """
    if not os.path.exists(source) and _REPOSITORY.fullmatch(os.fspath(source)):
        return Model.from_pretrained(
            source, device=device, dtype=dtype, compile=compile, capture=capture
        )
    checkpoint = open_checkpoint(source)
    return Model(checkpoint, device=device, dtype=dtype, compile=compile, capture=capture)


class Model:
    """A network with its names and the score from which a triplet counts.

    `load` makes one. `settings` are those of `load`.

    Attributes:
        source: where it was loaded from.
        vocabulary: the names of what it knows; `objects` and `verbs` are its.
        has_actpoints: whether it has gaze steps.
        threshold: lowest score of a result's triplets; the one of the best F1 where the run was
            evaluated. It can be set.
        predictor: the same one level lower, with arrays and batches.
    """

    def __init__(self, checkpoint: Checkpoint, **settings: Any):
        self.predictor = Predictor.of(checkpoint, **settings)
        self._checkpoint = replace(checkpoint, state={})  # the network has the weights
        self.source, self.vocabulary = checkpoint.path, checkpoint.vocabulary
        switches = checkpoint.config.model
        self.has_actpoints = switches.aggregation == "actpoints" or (
            switches.aggregation == "gaze" and switches.gaze_steps > 0
        )
        self.threshold = THRESHOLD if checkpoint.threshold is None else checkpoint.threshold

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the object classes, by index; the first is the person."""
        return self.vocabulary.objects

    @property
    def verbs(self) -> tuple[str, ...]:
        """Names of the verbs, by index."""
        return self.vocabulary.verbs

    def __call__(
        self, source: Any, *, threshold: float | None = None, batch: int = 1
    ) -> list[Result]:
        """The triplets of every image.

        Args:
            source: a path, folder, glob pattern, list file, video or URL (`find_inputs` of
                `ggnet.data.inputs`), encoded bytes, PIL image, array or tensor (`as_inputs`
                there), or several of them.
            threshold: lowest score of a triplet; None: the model's.
            batch: images that the network sees at once.

        Returns:
            One result an image or frame, in order.

        Raises:
            UserError: a source that cannot be read, or an array that is no image.

        Example:
            >>> for triplet in model("photo.jpg")[0]:
            ...     print(triplet.score, triplet.verb, triplet.object.name, triplet.object.box)
        """
        return list(self.stream(source, threshold=threshold, batch=batch))

    def stream(
        self, source: Any, *, threshold: float | None = None, batch: int = 1
    ) -> Iterator[Result]:
        """As calling it, one result after the other: for videos, cameras and generators."""
        lowest = self.threshold if threshold is None else check_threshold(threshold)
        if not isinstance(batch, int) or batch < 1:
            raise UserError(f"batch is {batch!r}; expected a number of images, at least 1")
        return self._results(_frames(as_inputs(source)), lowest, batch)

    def _results(self, frames: Iterator[Frame], threshold: float, batch: int) -> Iterator[Result]:
        while some := list(islice(frames, batch)):
            yield from self.look(some, threshold)

    def look(self, frames: list[Frame], threshold: float | None = None) -> list[Result]:
        """The results of one batch of frames; a frame's name is its prediction's."""
        lowest = self.threshold if threshold is None else threshold
        prepared = self.predictor.prepare([f.image for f in frames], [f.name for f in frames])
        return [
            Result(frame, prediction, gaze, self.vocabulary, lowest)
            for frame, (prediction, gaze) in zip(
                frames, self.predictor.look(*prepared), strict=True
            )
        ]

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write config.json and model.safetensors, as the Hugging Face hub wants them.

        Raises:
            UserError: safetensors is not installed, or a file cannot be written.
        """
        network = self.predictor.detector.network
        network = getattr(network, "_orig_mod", network)  # of torch.compile
        state = {"model": network.state_dict(), "ema": None}
        hub.save_pretrained(
            replace(self._checkpoint, state=state, threshold=self.threshold), folder
        )

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, *, revision: str | None = None, **settings: Any
    ) -> "Model":
        """A network from a folder that `save_pretrained` wrote or a repository of the hub.

        Args:
            source: the folder, or owner/name.
            revision: of the repository: a branch, tag or commit.
            settings: as of `load`.

        Raises:
            UserError: nothing there, or it is broken; a package that is missing.
        """
        folder = Path(source)
        if not folder.exists():
            folder = hub.download(os.fspath(source), revision)
        if not hub.is_pretrained(folder):
            raise UserError(
                f"{source} holds no {hub.CONFIG} and {hub.WEIGHTS}: not what save_pretrained "
                "writes. A run folder or checkpoint is read by ggnet.load"
            )
        return cls(hub.open_pretrained(folder), **settings)

    def __repr__(self) -> str:
        config = self._checkpoint.config.model
        return (
            f"ggnet.Model({self.source}: {config.backbone}, {len(self.verbs)} verbs, "
            f"{len(self.objects)} objects, threshold {self.threshold:.3g}, on "
            f"{self.predictor.device})"
        )


def _frames(inputs: Iterator[Input]) -> Iterator[Frame]:
    for one in inputs:
        yield from one.frames()
