"""From images to human-object-interaction triplets in the pixels of the original image."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ggnet.config import Config
from ggnet.data.preprocess import ImageMeta, preprocess, stack_inputs
from ggnet.data.transforms import invert_affine, transform_boxes
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.capture import Captured
from ggnet.engine.checkpoint import Checkpoint, load_weights, open_checkpoint
from ggnet.engine.device import choose_device
from ggnet.engine.host import to_host
from ggnet.errors import UserError, reading
from ggnet.eval.predictions import Gaze, ImageDetections, ImagePrediction
from ggnet.models import Detector, build_model
from ggnet.models.detector import evaluation_mode
from ggnet.ops import decode_detections
from ggnet.triplets import Detections, Triplets

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


class Predictor:
    """A trained network with everything around it: image in, triplets out.

    The network is put on `device`. Predicting takes place in evaluation mode; afterwards the
    network has the mode that it had.

    Args:
        network: as `Detector` wants it.
        device: a torch.device, or "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".
        dtype: what the network computes in: "float32", "bfloat16" or "float16", by autocast.
        compile: run the network through torch.compile; the first image of each shape takes minutes.
        capture: run network and decoding as one CUDA graph for each shape: no launches to wait for.

    Raises:
        UserError: there is no such device or dtype; capture without CUDA.

    Example:
        >>> predictor = Predictor.from_checkpoint("runs/demo")
        >>> [prediction] = predictor(*predictor.prepare([read_image("a.jpg")]))
        >>> predictor.vocabulary.verbs[prediction.verbs[0]], prediction.scores[0]
    """

    def __init__(
        self,
        network: nn.Module,
        vocabulary: Vocabulary,
        config: Config,
        device: torch.device | str = "auto",
        *,
        dtype: str = "float32",
        compile: bool = False,
        capture: bool = False,
    ):
        self.vocabulary, self.config, self.device = vocabulary, config, choose_device(device)
        if dtype not in DTYPES:
            raise UserError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
        if capture and self.device.type != "cuda":
            raise UserError(f"capture makes a CUDA graph, and the device is {self.device}")
        pairs, decoding = vocabulary.valid_pairs, config.eval
        _choose_cells(network, decoding.gaze_cells, dtype, capture)
        self.detector = Detector(
            network,
            pairs,
            k=decoding.k,
            rule=decoding.rule,
            allow_same=decoding.allow_same,
            verb_exponent=decoding.verb_exponent,
        )
        self.detector.to(self.device, memory_format=torch.channels_last)
        self._dtype = DTYPES[dtype]
        if compile:
            self.detector.network = torch.compile(network)
        self._find = Captured(self._look) if capture else self._look
        self._external: Mapping[str, ImageDetections] | None = None

    @classmethod
    def from_checkpoint(
        cls, source: str | os.PathLike, device: torch.device | str = "auto", **settings: Any
    ) -> "Predictor":
        """The network of a checkpoint file or run folder; its averaged weights where it has them.

        Args:
            settings: dtype, compile, capture; see the class.

        Raises:
            UserError: no checkpoint there, or one that is corrupt or does not fit this version; no
                such device.
        """
        return cls.of(open_checkpoint(source), device, **settings)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        device: torch.device | str = "auto",
        config: Config | None = None,
        **settings: Any,
    ) -> "Predictor":
        """The network of a checkpoint that is open already, with another configuration of data and
        decoding if wanted; raises as `from_checkpoint`."""
        config, vocabulary = config or checkpoint.config, checkpoint.vocabulary
        with reading(checkpoint.path, "a network that this machine can hold"):
            network = build_model(config.model, len(vocabulary.objects), len(vocabulary.verbs))
        load_weights(network, checkpoint.weights, checkpoint.path)
        return cls(network, vocabulary, config, device, **settings)

    def use_detections(self, found: Mapping[str, ImageDetections]) -> None:
        """From now on take these boxes, by image id, in place of the network's own."""
        self._external = found

    def prepare(
        self, images: list[np.ndarray], names: list[str] | None = None
    ) -> tuple[Tensor, list[ImageMeta]]:
        """Letterbox uint8 RGB (H, W, 3) images of any size into one batch.

        Returns:
            The (B, 3, height, width) float32 batch and, for each image, its meta; the name is both
            its file name and its id.
        """
        names = [""] * len(images) if names is None else names
        inputs = [
            preprocess(image, self.config.data, file_name=name, image_id=name)
            for image, name in zip(images, names, strict=True)
        ]
        return stack_inputs(inputs), [image.meta for image in inputs]

    def __call__(self, images: Tensor, meta: list[ImageMeta]) -> list[ImagePrediction]:
        """The triplets of a batch, highest score first.

        Args:
            images: (B, 3, H, W) normalized RGB, as `prepare` or the loader makes them.
            meta: one an image.

        Returns:
            One prediction an image, of at most config.eval.k triplets. Boxes are cropped to the
            image; triplets of which a box lies outside it are left out.
        """
        return [prediction for prediction, _ in self.look(images, meta, steps=False)]

    @torch.inference_mode()
    def look(
        self, images: Tensor, meta: list[ImageMeta], steps: bool = True
    ) -> list[tuple[ImagePrediction, Gaze]]:
        """As calling it, together with the interaction point of every triplet and, with `steps`,
        the ActPoints of every gaze step: what a picture shows."""
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        stride = self.config.model.stride
        to_pixels = [invert_affine(m.affine) * [[stride, stride, 1]] for m in meta]  # from cells
        if self._external is None:
            triplets, boxes, gazes = self._find(images)
        else:
            found = [self._external[m.image_id] for m in meta]
            outputs = self._outputs(images)
            triplets, boxes = self.detector.decode(outputs, self._in_cells(found, meta)), ()
            gazes = outputs.get("actpoints", [])
        cells = [_at_cells(step, triplets.interaction_yx) for step in gazes] if steps else []
        values = iter(to_host([*triplets, *boxes, *cells]))
        arrays = {name: next(values) for name in Triplets._fields}
        if self._external is None:
            boxes = Detections(*(next(values) for _ in Detections._fields))
            found = _detections(boxes, meta, to_pixels)
        cells = list(values)
        return [
            _in_pixels(
                {name: value[b] for name, value in arrays.items()},
                [c[b] for c in cells],
                meta[b],
                to_pixels[b],
                found[b],
            )
            for b in range(len(meta))
        ]

    def _outputs(self, images: Tensor) -> dict[str, Any]:
        half = self._dtype is not torch.float32
        # Without autocast's cache: what it keeps would belong to a graph that is being captured.
        with (
            evaluation_mode(self.detector),
            torch.autocast(self.device.type, self._dtype, enabled=half, cache_enabled=False),
        ):
            return self.detector.network(images)

    def _look(self, images: Tensor) -> tuple[Triplets, Detections, list[Tensor]]:
        """The triplets, the boxes that they are made of, and the maps of the gaze steps."""
        outputs = self._outputs(images)
        boxes = decode_detections(outputs, k=self.detector.k)
        return self.detector.decode(outputs), boxes, outputs.get("actpoints", [])

    def _in_cells(self, found: list[ImageDetections], meta: list[ImageMeta]) -> Detections:
        """Boxes in original pixels as `decode_hoi` wants them, padded to the most of any image."""
        stride = self.config.model.stride
        size = max(1, *(len(image.scores) for image in self._external.values()))
        boxes = np.zeros((len(found), size, 4), np.float32)
        labels = np.zeros((len(found), size), np.int64)
        scores = np.zeros((len(found), size), np.float32)
        for b, (image, m) in enumerate(zip(found, meta, strict=True)):
            count = len(image.scores)
            boxes[b, :count] = transform_boxes(image.boxes, m.affine) / stride
            labels[b, :count], scores[b, :count] = image.labels, image.scores
        return Detections(*(torch.from_numpy(x).to(self.device) for x in (boxes, labels, scores)))


def _detections(
    boxes: Detections, meta: list[ImageMeta], to_pixels: list[np.ndarray]
) -> list[ImageDetections]:
    """Decoded boxes (of arrays) in original pixels, without padding and what lies outside the
    image."""
    corners, labels, scores = boxes
    result = []
    for b, m in enumerate(meta):
        pixels = _boxes_in_pixels(corners[b], m, to_pixels[b])
        keep = (scores[b] > 0) & (pixels[:, 2:] > pixels[:, :2]).all(axis=1)
        score = scores[b][keep].astype(np.float32)
        result.append(ImageDetections(m.image_id, pixels[keep], labels[b][keep], score))
    return result


def _boxes_in_pixels(boxes: np.ndarray, meta: ImageMeta, to_pixels: np.ndarray) -> np.ndarray:
    """(n, 4) boxes in cells -> original pixels, cropped to the image."""
    limit = np.array([meta.width, meta.height] * 2)
    return transform_boxes(boxes, to_pixels).clip(0, limit).astype(np.float32)


def _choose_cells(network: nn.Module, cells: int | None, dtype: str, capture: bool) -> None:
    """Let the network compute its gaze steps at these cells.

    Raises:
        UserError: it cannot.
    """
    if cells is not None and (capture or dtype != "float32"):
        raise UserError(
            f"eval.gaze_cells is {cells}, which works in float32 and outside of CUDA graphs, not "
            f"with {'capture' if capture else dtype}; set it to null"
        )
    if cells is None and not hasattr(network, "set_gaze_cells"):  # not this package's own network
        return
    try:
        network.set_gaze_cells(cells)
    except ValueError as error:
        raise UserError(f"eval.gaze_cells is {cells}, but {error}; set it to null") from None


def _at_cells(step: Tensor, yx: Tensor) -> Tensor:
    """(B, n, 3K) offsets and weights of a (B, 3K, h, w) map at (B, n, 2) cells."""
    batch = torch.arange(step.shape[0], device=step.device)[:, None]
    values = step[batch, :, yx[..., 0], yx[..., 1]].float()
    offsets, logits = values.split([step.shape[1] // 3 * 2, step.shape[1] // 3], dim=-1)
    return torch.cat([offsets, logits.sigmoid()], dim=-1)


def _in_pixels(
    triplets: dict[str, np.ndarray],
    cells: list[np.ndarray],
    meta: ImageMeta,
    to_pixels: np.ndarray,
    detections: ImageDetections,
) -> tuple[ImagePrediction, Gaze]:
    """One image's triplets (arrays over its k) from feature cells to original pixels."""
    humans, objects = (
        _boxes_in_pixels(triplets[name], meta, to_pixels)
        for name in ("human_boxes", "object_boxes")
    )
    visible = ((both := np.stack([humans, objects]))[..., 2:] > both[..., :2]).all(axis=(0, 2))
    keep = visible & (triplets["scores"] > 0)
    prediction = ImagePrediction(
        image_id=meta.image_id,
        file_name=meta.file_name,
        human_boxes=humans[keep],
        object_boxes=objects[keep],
        object_labels=triplets["object_labels"][keep],
        verbs=triplets["verbs"][keep],
        scores=triplets["scores"][keep].astype(np.float32),
        detections=detections,
        human_scores=triplets["human_scores"][keep].astype(np.float32),
        object_scores=triplets["object_scores"][keep].astype(np.float32),
        size=(meta.width, meta.height),
    )
    # A cell's value belongs to the cell's middle, half a cell from its edge.
    centers = triplets["interaction_yx"][keep][:, ::-1] + 0.5
    count, side = len(centers), round((cells[0].shape[1] / 3) ** 0.5) if cells else 0
    grid = np.stack(np.meshgrid(*[np.arange(side) - side // 2] * 2), axis=-1).reshape(-1, 2)
    actpoints = np.zeros((len(cells), count, side**2, 2), np.float32)
    weights = np.zeros((len(cells), count, side**2), np.float32)
    for s, step in enumerate(cells):
        offsets, weights[s] = np.split(step[keep], [2 * side**2], axis=1)
        xy = offsets.reshape(count, side**2, 2)[..., ::-1] + grid + centers[:, None]
        actpoints[s] = _points(xy, to_pixels)
    return prediction, Gaze(_points(centers, to_pixels), actpoints, weights)


def _points(xy: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return (xy * affine.diagonal() + affine[:, 2]).astype(np.float32)
