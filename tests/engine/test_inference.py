"""A network that is right about everything must come out right in original pixels."""

import numpy as np
import pytest
import torch
from samples import CUPS, save_untrained
from torch import nn

from ggnet.config import Config
from ggnet.data.targets import build_targets
from ggnet.data.transforms import letterbox_affine, transform_boxes
from ggnet.engine.checkpoint import save_checkpoint
from ggnet.engine.inference import Predictor
from ggnet.errors import UserError
from ggnet.eval.predictions import ImageDetections
from ggnet.models import build_model

CPU = torch.device("cpu")
INPUT = (96, 160)  # height, width
STRIDE = 4
GRID = (INPUT[0] // STRIDE, INPUT[1] // STRIDE)
LABELS = np.array([0, 1, 0, 2])
PAIRS = np.array([[0, 1, 2], [2, 3, 1]])  # throw ball, drink cup
# In an image of 320 x 192, whose zoom into the input is 1/2: a cell is 8 pixels.
BOXES = np.array(
    [[20.0, 40, 60, 150], [100, 40, 141, 90], [180, 30, 220, 180], [250, 110, 290, 150]]
)


class Known(nn.Module):
    """A network that answers with given maps, the same for every image of the batch."""

    def __init__(self, maps: dict[str, torch.Tensor], steps: list[torch.Tensor]):
        super().__init__()
        self.maps, self.steps = maps, steps

    def forward(self, images):
        repeat = (len(images), 1, 1, 1)
        outputs = {name: value.repeat(repeat) for name, value in self.maps.items()}
        return outputs | {"actpoints": [step.repeat(repeat) for step in self.steps]}


def network(boxes, width, height, steps=()):
    """The maps that say exactly what the boxes (original pixels), LABELS and PAIRS are."""
    affine = letterbox_affine(width, height, INPUT)
    cells = transform_boxes(boxes, affine) / STRIDE
    centers = (cells[:, :2] + cells[:, 2:]) / 2
    y, x = np.floor(centers).astype(int).T[::-1]
    maps = {name: np.zeros((1, 2, *GRID)) for name in ("size", "center_frac")}
    maps |= {name: np.zeros((1, 6, *GRID)) for name in ("human_offset", "object_offset")}
    maps |= {name: np.full((1, 3, *GRID), -9.0) for name in ("heatmap", "interaction")}
    maps["heatmap"][0, LABELS, y, x] = 6.0
    maps["size"][0, :, y, x] = cells[:, 2:] - cells[:, :2]
    maps["center_frac"][0, :, y, x] = centers - np.floor(centers)
    for rank, (human, object_, verb) in enumerate(PAIRS):
        px, py = (x[human] + x[object_]) // 2, (y[human] + y[object_]) // 2
        maps["interaction"][0, verb, py, px] = 6.0 - rank
        for name, box in (("human_offset", human), ("object_offset", object_)):
            maps[name][0, 2 * verb : 2 * verb + 2, py, px] = px - x[box], py - y[box]
    return Known({name: torch.tensor(value).float() for name, value in maps.items()}, list(steps))


def predictor(model):
    config = Config()
    config.data.input_size = INPUT
    config.eval.k = 20
    return Predictor(model, CUPS, config, CPU)


def blank(width, height):
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize("allow_same", [False, True])
def test_decoding_follows_the_configuration(allow_same):
    config = Config()
    config.eval.k, config.eval.rule, config.eval.allow_same = 7, "distance", allow_same
    detector = Predictor(nn.Identity(), CUPS, config, CPU).detector
    assert (detector.k, detector.rule, detector.allow_same) == (7, "distance", allow_same)


@pytest.mark.parametrize(("width", "height"), [(320, 192), (640, 427), (300, 500), (101, 67)])
def test_boxes_come_back_in_original_pixels(width, height):
    unit = np.array([width, height, width, height])
    boxes = unit * [[0.1, 0.2, 0.3, 0.8], [0.5, 0.1, 0.65, 0.3], [0.6, 0.4, 0.8, 0.95]]
    boxes = np.concatenate([boxes, unit * [[0.3, 0.7, 0.4, 0.85]]])
    run = predictor(network(boxes, width, height))
    images, meta = run.prepare([blank(width, height)], ["a.jpg"])
    [found] = run(images, meta)
    best = found.scores > 0.5
    np.testing.assert_array_equal(found.verbs[best], PAIRS[:, 2])
    np.testing.assert_array_equal(found.object_labels[best], LABELS[PAIRS[:, 1]])
    np.testing.assert_allclose(found.human_boxes[best], boxes[PAIRS[:, 0]], atol=1e-3 * width)
    np.testing.assert_allclose(found.object_boxes[best], boxes[PAIRS[:, 1]], atol=1e-3 * width)
    assert (found.file_name, found.image_id) == ("a.jpg", "a.jpg")
    assert (np.diff(found.scores) <= 0).all()


def test_boxes_are_cropped_to_the_image_and_not_shifted():
    boxes = BOXES.copy()
    boxes[:3] = [-40, 50, 60, 150], [200, 20, 380, 90], [220, 100, 300, 230]
    run = predictor(network(boxes, 320, 192))
    [found] = run(*run.prepare([blank(320, 192)]))
    np.testing.assert_allclose(found.human_boxes[0], [0, 50, 60, 150], atol=0.1)
    np.testing.assert_allclose(found.object_boxes[0], [200, 20, 320, 90], atol=0.1)
    np.testing.assert_allclose(found.human_boxes[1], [220, 100, 300, 192], atol=0.1)


def test_triplets_in_the_black_border_are_left_out():
    boxes = BOXES - [0, 40, 0, 40]
    boxes[1] = 100, -70, 140, -20
    run = predictor(network(boxes, 320, 100))  # letterbox: black above and below
    [found] = run(*run.prepare([blank(320, 100)]))
    assert 2 not in found.verbs[found.scores > 0.1]  # the ball that is thrown lies above the image
    assert found.verbs[0] == 1


def test_scores_are_positive_and_pairs_valid():
    torch.manual_seed(0)
    run = predictor(build_model(Config().model, 3, 3))
    image = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    [found] = run(*run.prepare([image]))
    assert 0 < len(found) <= 20
    assert (found.scores > 0).all()
    assert CUPS.valid_pairs[found.verbs, found.object_labels].all()
    assert (found.human_boxes >= 0).all()
    assert (found.object_boxes <= [80, 100, 80, 100]).all()


def test_network_is_used_in_evaluation_mode_and_keeps_its_own():
    model = build_model(Config().model, 3, 3).train()
    model.backbone.eval()  # frozen statistics, as in fine-tuning
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = predictor(model)
    run(*run.prepare([blank(64, 64)]))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    run.detector.network = None  # what fails must not change it either
    with pytest.raises(TypeError):
        run(*run.prepare([blank(64, 64)]))
    assert [module.training for module in model.modules()] == modes


def test_device_is_chosen_by_name():
    model = build_model(Config().model, 3, 3)
    automatic = Predictor(model, CUPS, Config())
    assert automatic.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert Predictor(model, CUPS, Config(), "cpu").device == CPU
    with pytest.raises(UserError, match="device is 'tpu'; expected auto, cpu, cuda or cuda:N"):
        Predictor(model, CUPS, Config(), "tpu")


def test_images_of_several_sizes_in_one_batch():
    torch.manual_seed(0)
    run = predictor(build_model(Config().model, 3, 3))
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((90, 50), (64, 200), (33, 34))
    ]
    together = run(*run.prepare(pictures, list("abc")))
    for picture, name, found in zip(pictures, "abc", together, strict=True):
        [alone] = run(*run.prepare([picture], [name]))
        assert found.file_name == name
        np.testing.assert_allclose(found.scores[:5], alone.scores[:5], rtol=1e-4)
        np.testing.assert_allclose(found.human_boxes[:5], alone.human_boxes[:5], atol=1e-2)


def test_actpoints_in_original_pixels():
    first, second = torch.zeros(1, 27, *GRID), torch.zeros(1, 27, *GRID)
    first[:, 18 + 4] = 2.0  # the weight of the middle point
    second[:, 0], second[:, 1] = 1.5, -0.5  # (dy, dx) of the first point
    run = predictor(network(BOXES, 320, 192, [first, second]))
    [(found, gaze)] = run.look(*run.prepare([blank(320, 192)]))
    assert gaze.actpoints.shape == (2, len(found), 9, 2)
    assert gaze.weights.shape == (2, len(found), 9)
    middle = (BOXES[0] + BOXES[1]).reshape(2, 2).mean(axis=0) / 2
    np.testing.assert_allclose(gaze.points[0], middle, atol=8)  # within a cell of it
    np.testing.assert_allclose((gaze.points[0] / 8) % 1, 0.5)  # the middle of a cell
    np.testing.assert_allclose(gaze.actpoints[0, 0, 4], gaze.points[0])
    np.testing.assert_allclose(gaze.actpoints[0, 0, 2], gaze.points[0] + [8, -8])  # (x, y)
    np.testing.assert_allclose(gaze.actpoints[1, 0, 0], gaze.points[0] + [-8 - 4, -8 + 12])
    np.testing.assert_allclose(gaze.weights[0, 0, [0, 4]], [0.5, 1 / (1 + np.exp(-2.0))], rtol=1e-6)


def test_an_image_without_triplets_has_no_actpoints():
    boxes = BOXES - [0, 1000, 0, 1000]  # all in the border above the image
    model = network(BOXES, 320, 192, [torch.zeros(1, 27, *GRID)])
    run = predictor(model)
    images, meta = run.prepare([blank(320, 192)], ["a"])
    external = ImageDetections("a", boxes.astype(np.float32), LABELS, np.ones(4, np.float32))
    run.use_detections({"a": external})
    [(found, gaze)] = run.look(images, meta)
    assert len(found) == 0
    assert gaze.actpoints.shape == (1, 0, 9, 2)
    assert gaze.weights.shape == (1, 0, 9)


def test_a_network_without_gaze_steps_has_no_actpoints():
    run = predictor(network(BOXES, 320, 192))
    [(found, gaze)] = run.look(*run.prepare([blank(320, 192)]))
    assert len(found) > 0
    assert gaze.actpoints.shape == (0, len(found), 0, 2)
    assert gaze.weights.shape == (0, len(found), 0)


def test_detected_boxes_come_with_the_triplets():
    run = predictor(network(BOXES, 320, 192))
    [found] = run(*run.prepare([blank(320, 192)], ["a"]))
    boxes = found.detections
    best = boxes.scores > 0.5
    assert boxes.image_id == "a"
    assert sorted(boxes.labels[best]) == sorted(LABELS)
    order = np.lexsort(boxes.boxes[best].T)
    np.testing.assert_allclose(boxes.boxes[best][order], BOXES[np.lexsort(BOXES.T)], atol=1e-3)


def test_a_box_without_any_score_is_none():
    """Zeros are peaks, too."""
    model = network(BOXES, 320, 192)
    model.maps["heatmap"][model.maps["heatmap"] < 0] = -1000.0
    model.maps["size"] += 3.0
    [found] = predictor(model)(*predictor(model).prepare([blank(320, 192)], ["a"]))
    assert sorted(found.detections.labels) == sorted(LABELS)
    assert len(found) > 0
    assert (found.scores > 0).all()


def test_boxes_of_another_detector_take_the_place_of_the_networks():
    model = network(BOXES, 320, 192)
    run = predictor(model)
    images, meta = run.prepare([blank(320, 192)] * 2, ["a", "b"])
    [expected, _] = run(images, meta)
    model.maps["heatmap"].fill_(-9)  # the network sees no boxes
    external = ImageDetections(
        "a", BOXES.astype(np.float32), LABELS, np.array([0.5, 0.9, 1, 0.25], np.float32)
    )
    none = ImageDetections("b", external.boxes[:0], LABELS[:0], external.scores[:0])
    run.use_detections({"a": external, "b": none})
    [found, nothing] = run(images, meta)
    assert len(nothing) == 0
    np.testing.assert_array_equal(found.verbs[:2], expected.verbs[:2])
    for name in ("human_boxes", "object_boxes"):
        np.testing.assert_allclose(getattr(found, name)[:2], getattr(expected, name)[:2], atol=1e-3)
    interactions = 1 / (1 + np.exp(-np.array([6.0, 5.0])))
    np.testing.assert_allclose(found.scores[:2], interactions * [0.5 * 0.9, 1 * 0.25], rtol=1e-5)
    assert found.detections is external


def test_targets_and_prediction_agree():
    """What the loader asks for at a box is what decoding expects there."""
    affine = letterbox_affine(320, 192, INPUT)
    targets = build_targets(
        transform_boxes(BOXES, affine) / STRIDE, LABELS, PAIRS, CUPS.valid_pairs, GRID
    )
    maps = network(BOXES, 320, 192).maps
    for (label, y, x), size, frac in zip(
        targets["objects"], targets["sizes"], targets["centers_frac"], strict=True
    ):
        assert maps["heatmap"][0, label, y, x] > 0
        np.testing.assert_allclose(maps["size"][0, :, y, x], size, rtol=1e-6)
        np.testing.assert_allclose(maps["center_frac"][0, :, y, x], frac, atol=1e-6)


@pytest.fixture
def checkpoint(tmp_path):
    """A run folder with a checkpoint, and its state."""
    state = save_untrained(tmp_path, Config())
    return tmp_path, state


def test_predictor_of_a_run_folder(checkpoint):
    folder, state = checkpoint
    run = Predictor.from_checkpoint(folder, CPU)
    assert run.vocabulary == CUPS
    assert torch.equal(
        next(iter(run.detector.network.state_dict().values())), next(iter(state["model"].values()))
    )


def test_averaged_weights_are_preferred(checkpoint):
    folder, state = checkpoint
    state["ema"] = {name: value + 1 for name, value in state["model"].items()}
    save_checkpoint(folder / "best.pt", state)
    run = Predictor.from_checkpoint(folder / "best.pt", CPU)
    for name, value in run.detector.network.state_dict().items():
        torch.testing.assert_close(value, state["ema"][name])


def test_checkpoint_that_does_not_fit_is_named(checkpoint):
    folder, state = checkpoint
    state["model"].popitem()
    save_checkpoint(folder / "best.pt", state)
    with pytest.raises(UserError, match=r"best\.pt do not fit its configuration"):
        Predictor.from_checkpoint(folder, CPU)
