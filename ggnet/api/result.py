"""The triplets of one image, with names."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np

from ggnet.data.inputs import Frame
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.eval.predictions import Gaze, ImagePrediction

_SHOWN = 10  # triplets in a repr


@dataclass(frozen=True)
class Instance:
    """A person or object in an image."""

    name: str  # of its class
    label: int  # index of its class; 0 is person
    box: tuple[float, float, float, float]  # x1, y1, x2, y2: edges in pixels of the image
    score: float  # of the box alone, 0 to 1


@dataclass(frozen=True)
class Triplet:
    """One interaction: <human, verb, object>."""

    human: Instance
    verb: str
    verb_index: int
    object: Instance
    score: float  # of the whole: the product of interaction, human and object scores
    point: tuple[float, float]  # x, y of the interaction point, in pixels

    def __str__(self) -> str:
        return f"{self.score:.2f} {self.human.name} {self.verb} {self.object.name}"


class Result(Sequence[Triplet]):
    """The triplets of one image at or above a threshold, best first.

    All others are kept: `above` changes the threshold, up or down.

    Attributes:
        name: path or URL of the image, or what it was in memory.
        image: (H, W, 3) uint8 RGB.
        threshold: lowest score of the triplets.
        index, seconds: of a frame of a video or animation; else None.
        prediction: all triplets in arrays.
        gaze: their interaction points and ActPoints.
    """

    def __init__(
        self,
        frame: Frame,
        prediction: ImagePrediction,
        gaze: Gaze,
        vocabulary: Vocabulary,
        threshold: float,
    ):
        self.image, self.name = frame.image, frame.name
        self.index, self.seconds = frame.index, frame.seconds
        self.prediction, self.gaze, self.vocabulary = prediction, gaze, vocabulary
        self.threshold = threshold
        self._frame = frame
        self._rows = np.flatnonzero(prediction.scores >= threshold).tolist()

    @property
    def width(self) -> int:
        """Of the image, in pixels."""
        return self.image.shape[1]

    @property
    def height(self) -> int:
        """Of the image, in pixels."""
        return self.image.shape[0]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Triplet: ...
    @overload
    def __getitem__(self, index: slice) -> "Result": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            part = self._with(self.threshold)
            part._rows = self._rows[index]
            return part
        return self._triplet(self._rows[index])

    def __iter__(self) -> Iterator[Triplet]:
        return map(self._triplet, self._rows)

    def above(self, threshold: float) -> "Result":
        """The same image's triplets with another lowest score; 0 gives all."""
        return self._with(check_threshold(threshold))

    @property
    def best(self) -> Triplet | None:
        """The best-scored triplet, whatever the threshold; None if there is none at all."""
        return self._triplet(0) if len(self.prediction) else None

    def __repr__(self) -> str:
        lines = [f"{self.name}: {len(self)} of score {self.threshold:.3g} or more"]
        lines += [f"  {triplet}" for triplet in self[:_SHOWN]]
        if len(self) > _SHOWN:
            lines.append(f"  and {len(self) - _SHOWN} more")
        elif not len(self) and self.best is not None:
            lines.append(f"  the best below: {self.best.score:.3g} {str(self.best)[5:]}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Name, size, threshold and triplets as plain values; of frames index and seconds too."""
        moment = {} if self.index is None else {"frame": self.index, "seconds": self.seconds}
        return {
            "name": self.name,
            **moment,
            "width": self.width,
            "height": self.height,
            "threshold": self.threshold,
            "triplets": [asdict(triplet) for triplet in self],
        }

    def to_json(self, **settings: Any) -> str:
        """`to_dict` as JSON; `settings` are json.dumps's, such as indent=1."""
        return json.dumps(self.to_dict(), **settings)

    def to_df(self):
        """A pandas.DataFrame with a row for each triplet.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_df needs pandas: pip install pandas", name="pandas") from None
        corners = ("x1", "y1", "x2", "y2")
        columns = ["name", "human_score", "verb", "object", "object_score", "score"]
        columns += [f"{part}_{corner}" for part in ("human", "object") for corner in corners]
        rows = [
            (
                *(self.name, t.human.score, t.verb, t.object.name, t.object.score, t.score),
                *(t.human.box + t.object.box),
            )
            for t in self
        ]
        return pandas.DataFrame(rows, columns=columns)

    def to_supervision(self):
        """A supervision.Detections of the boxes in these triplets, each box once.

        `data["class_name"]` has their names; `metadata["triplets"]` is a list of (human, verb,
        object, score), human and object counting the boxes.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError(
                "to_supervision needs supervision: pip install supervision", name="supervision"
            ) from None
        boxes: dict[Instance, int] = {}
        triplets = [
            (
                boxes.setdefault(t.human, len(boxes)),
                t.verb,
                boxes.setdefault(t.object, len(boxes)),
                t.score,
            )
            for t in self
        ]
        return supervision.Detections(
            xyxy=np.array([b.box for b in boxes], np.float32).reshape(-1, 4),
            confidence=np.array([b.score for b in boxes], np.float32),
            class_id=np.array([b.label for b in boxes], int),
            data={"class_name": np.array([b.name for b in boxes], str)},
            metadata={"triplets": triplets},
        )

    def plot(
        self, *, top: int | None = None, actpoints: bool = False, listed: bool = True
    ) -> np.ndarray:
        """A picture of the triplets: (H, W, 3) uint8 RGB.

        Args:
            top: most triplets drawn; None: as many as a picture usually has.
            listed: list many triplets below the picture; False: it keeps the image's proportions.
            actpoints: beside it where each gaze step looked for the best triplet.

        Raises:
            ValueError: the network has no ActPoints.
        """
        from ggnet.viz.defaults import TOP
        from ggnet.viz.draw import draw_gaze, draw_predictions

        settings = {"threshold": self.threshold, "top": TOP if top is None else top}
        if not actpoints:
            return draw_predictions(
                self.image, self.prediction, self.vocabulary, self.gaze, listed=listed, **settings
            )
        if not len(self.gaze.actpoints):
            raise ValueError("this network has no ActPoints to draw")
        return draw_gaze(self.image, self.prediction, self.gaze, self.vocabulary, **settings)

    def save(self, path: str | os.PathLike, *, top: int | None = None, actpoints: bool = False):
        """Write `plot` to a file of the format that its suffix names, atomically.

        Raises:
            UserError: no such format, or the file cannot be written.
        """
        from ggnet.viz.style import save_picture

        save_picture(path, self.plot(top=top, actpoints=actpoints))

    def _with(self, threshold: float) -> "Result":
        return Result(self._frame, self.prediction, self.gaze, self.vocabulary, threshold)

    def _triplet(self, row: int) -> Triplet:
        p, names = self.prediction, self.vocabulary
        label, verb = int(p.object_labels[row]), int(p.verbs[row])
        human = Instance(names.objects[0], 0, _box(p.human_boxes[row]), float(p.human_scores[row]))
        thing = Instance(
            names.objects[label], label, _box(p.object_boxes[row]), float(p.object_scores[row])
        )
        x, y = self.gaze.points[row].tolist()
        return Triplet(human, names.verbs[verb], verb, thing, float(p.scores[row]), (x, y))


def _box(values: np.ndarray) -> tuple[float, float, float, float]:
    return tuple(values.tolist())


def check_threshold(value: float) -> float:
    """A lowest score as a float.

    Raises:
        UserError: not from 0 to 1.
    """
    if not 0 <= value <= 1:
        raise UserError(f"threshold is {value}; expected a score from 0 to 1")
    return float(value)
