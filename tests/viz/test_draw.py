"""Pictures show what they should, where they should; how they look is for eyes."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from ggnet.eval.predictions import Gaze, ImagePrediction
from ggnet.viz import fonts, style
from ggnet.viz.canvas import Canvas, Chip
from ggnet.viz.draw import (
    draw_actpoints,
    draw_comparison,
    draw_gaze,
    draw_grid,
    draw_predictions,
    draw_truth,
    match_truth,
)

WHITE = (255, 255, 255)


@pytest.fixture
def chips(monkeypatch):
    """The text boxes that a picture got, each a list of lines."""
    seen = []

    def note(self, chips, boxes, marks):
        seen.extend(["".join(text for text, _ in line) for line in chip.lines] for chip in chips)

    monkeypatch.setattr(Canvas, "chips", note)
    return seen


def has_color(picture, color, near=12):
    return (np.abs(picture.astype(int) - color).max(axis=-1) <= near).any()


def changed(picture, image, box):
    """The share of pixels in a box (edges) that differ from the image."""
    x1, y1, x2, y2 = box
    return (picture[y1:y2, x1:x2] != image[y1:y2, x1:x2]).any(axis=-1).mean()


def test_photo_keeps_its_size_and_the_input_its_pixels(image, prediction, vocabulary, gaze):
    before = image.copy()
    picture = draw_predictions(image, prediction, vocabulary, gaze)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_small_image_is_enlarged_by_a_whole_factor(prediction, vocabulary):
    picture = draw_predictions(np.zeros((96, 128, 3), np.uint8), prediction, vocabulary)
    assert picture.shape == (96 * 4, 128 * 4, 3)


def test_boxes_are_drawn_where_they_are(image, record, vocabulary):
    picture = draw_truth(image, record, vocabulary)
    x1, y1, x2, _ = record.boxes[0].astype(int)
    for x in (x1, x2):  # a line 2 wide on the edge at pixel edge x
        assert has_color(picture[y1 + 5 : y1 + 20, x - 1 : x + 1], style.HUMAN)
        assert changed(picture, image, (x - 12, y1 + 5, x - 6, y1 + 20)) == 0
        assert changed(picture, image, (x + 6, y1 + 5, x + 12, y1 + 20)) == 0
    x1, y1, _, _ = record.boxes[3].astype(int)
    assert has_color(picture[y1 - 1 : y1 + 1, x1 + 5 : x1 + 20], style.OBJECT)


def test_only_scores_above_the_threshold_are_drawn(image, prediction, vocabulary):
    x1, y1, x2, y2 = prediction.human_boxes[2].astype(int)  # score 0.1
    around = (x1 - 5, y1 - 5, x2 + 5, y2 + 5)
    strict = draw_predictions(image, prediction, vocabulary, threshold=0.2)
    assert changed(strict, image, around) == 0
    assert (
        changed(draw_predictions(image, prediction, vocabulary, threshold=0.1), image, around) > 0
    )
    assert (
        changed(draw_predictions(image, prediction, vocabulary, threshold=0, top=2), image, around)
        == 0
    )


def test_picture_without_interactions_says_so(image, prediction, record, vocabulary):
    picture = draw_predictions(image, prediction, vocabulary, threshold=0.95)
    assert changed(picture, image, (0, 0, 200, 40)) > 0.3
    assert changed(picture, image, (0, 60, 640, 480)) == 0
    record.pairs = record.pairs[:0]
    assert changed(draw_truth(image, record, vocabulary), image, (0, 0, 150, 40)) > 0.3


def test_verbs_of_one_pair_share_a_text_box(chips, image, prediction, vocabulary):
    draw_predictions(image, prediction, vocabulary, threshold=0)
    assert chips == [["hold ball 0.90", "throw ball 0.60"], ["hold cup 0.10"]]


def test_second_detection_of_the_same_triplet_is_not_repeated(chips, image, prediction, vocabulary):
    prediction.verbs[1] = prediction.verbs[0]
    draw_predictions(image, prediction, vocabulary, threshold=0.5)
    assert chips == [["hold ball 0.90"]]


def test_underscores_are_not_shown(chips, image, prediction, vocabulary):
    prediction.verbs[0] = 1
    draw_predictions(image, prediction, vocabulary, threshold=0.7)
    assert chips == [["sit on ball 0.90"]]


def test_ticks_and_crosses(chips, image, prediction, record, vocabulary):
    prediction.verbs[1] = 1
    draw_predictions(image, prediction, vocabulary, threshold=0.5, truth=record)
    assert chips == [["✓ hold ball 0.90", "✗ sit on ball 0.60"]]


@pytest.mark.parametrize("count", [2, 6, 12])
def test_text_boxes_stay_inside_and_apart(count):
    rng = np.random.default_rng(count)
    canvas = Canvas(np.zeros((360, 512, 3), np.uint8))
    anchors = rng.uniform([200, 150], [300, 210], (count, 2))  # all in the middle
    lines = [[("hold bicycle", WHITE), (" 0.50", WHITE)]]
    chips = [Chip(lines, anchor, WHITE) for anchor in anchors]
    boxes = canvas.chips(chips, np.array([[150, 100, 350, 260]]), anchors)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (512, 360)).all()
    for i in range(count):
        for j in range(i):
            common = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
            assert (common <= 0).any(), (i, j)


def test_match_needs_verb_object_and_both_boxes_once(prediction, record):
    np.testing.assert_array_equal(match_truth(prediction, record), [0, 1, 2])
    prediction.verbs[1] = prediction.verbs[0]  # the same triplet again
    prediction.object_labels[2] = 1
    np.testing.assert_array_equal(match_truth(prediction, record), [0, -1, -1])
    prediction.human_boxes[0] += 30
    np.testing.assert_array_equal(match_truth(prediction, record), [-1, 0, -1])


def test_actpoints_are_colored_by_the_rank_of_their_weight(image, prediction, vocabulary, gaze):
    close = Gaze(gaze.points, gaze.actpoints, 0.5 + gaze.weights / 1000)
    picture = draw_actpoints(image, prediction, vocabulary, close, step=1)
    for k in (1, 8):  # the middle one lies under the interaction point
        x, y = gaze.actpoints[1, 0, k].astype(int)
        color = style.weight_color(k / 8)
        assert has_color(picture[y - 1 : y + 1, x - 1 : x + 1], color, near=3)
    x, y = gaze.points[0].astype(int)
    assert has_color(picture[y - 1 : y + 1, x - 1 : x + 1], (255, 255, 255), near=3)
    assert has_color(picture[y - 5 : y + 5, x - 5 : x + 5], style.PAIRS[0], near=3)


def test_gaze_of_a_triplet_below_the_threshold_is_marked(
    monkeypatch, image, prediction, vocabulary, gaze
):
    notes = []
    monkeypatch.setattr(
        Canvas, "note", lambda self, lines, stripe: notes.append("".join(t for t, _ in lines[0]))
    )
    for threshold in (0.9, 0.95):
        draw_actpoints(image, prediction, vocabulary, gaze, step=0, threshold=threshold)
    assert notes == ["hold ball 0.90", "hold ball 0.90, below 0.95"]


def test_missed_pairs_are_marked(chips, image, record, prediction, vocabulary, gaze):
    draw_comparison(image, record, prediction, gaze, vocabulary, threshold=0.5)
    assert ["hold ball", "throw ball"] in chips
    assert ["○ hold cup"] in chips  # its score is 0.1


def test_many_triplets_are_listed_below(image, vocabulary):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (2, 9, 2))
    humans, objects = (np.concatenate([c, c + 40], axis=1) for c in corners)
    many = ImagePrediction(
        "a", "a.jpg", humans, objects, np.full(9, 1), np.full(9, 2), np.linspace(0.9, 0.5, 9)
    )
    picture = draw_predictions(image, many, vocabulary, threshold=0.55)  # eight of them
    assert picture.shape[0] > image.shape[0] + 60
    assert picture.shape[1] == image.shape[1]
    assert draw_predictions(image, many, vocabulary, threshold=0.65).shape == image.shape
    assert draw_predictions(image, many, vocabulary, threshold=0, listed=False).shape == image.shape


@pytest.fixture
def runic(tmp_path, monkeypatch):
    """A font with one character that DejaVu Sans lacks, as the only one of the system."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "a"])
    builder.setupCharacterMap({ord("骑"): "a"})
    pen = TTGlyphPen(None)
    for at in ((0, 0), (0, 700), (700, 700), (700, 0)):
        (pen.lineTo if at != (0, 0) else pen.moveTo)(at)
    pen.closePath()
    glyph = pen.glyph()
    builder.setupGlyf({".notdef": glyph, "a": glyph})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "a": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Runic", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "runic.ttf")
    for name in ("_font_of", "_system", "_warn"):
        getattr(fonts, name).cache_clear()
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: [tmp_path / "runic.ttf"])
    yield tmp_path / "runic.ttf"
    for name in ("_font_of", "_system", "_warn"):
        getattr(fonts, name).cache_clear()


def test_names_in_any_script_use_a_font_that_has_it(runic, caplog):
    assert list(fonts.runs("hold 骑 0.5")) == [
        ("hold ", fonts.DEJAVU),
        ("骑 0.5", runic),
    ]
    assert style.families("骑") == ["DejaVu Sans", "Runic"]
    canvas = Canvas(np.zeros((200, 600, 3), np.uint8))
    canvas.note([[("骑", WHITE)]], WHITE)
    assert has_color(canvas.pixels[5:60, 20:60], WHITE)
    assert not caplog.records
    list(fonts.runs("한글 한"))
    [record] = caplog.records
    assert "no font on this machine has HANGUL characters" in record.message
    assert "fonts-noto-cjk" in record.message


def test_actpoints_outside_the_image_are_allowed(image, prediction, vocabulary, gaze):
    """What lies outside is not drawn, and the rest is as ever."""
    inside = draw_actpoints(image, prediction, vocabulary, gaze, step=0)
    gaze.actpoints[:] += 1e4
    outside = draw_actpoints(image, prediction, vocabulary, gaze, step=0)
    none = Gaze(gaze.points, gaze.actpoints[:, :, :0], gaze.weights[:, :, :0])
    np.testing.assert_array_equal(
        outside, draw_actpoints(image, prediction, vocabulary, none, step=0)
    )
    assert not np.array_equal(inside, outside)


def test_comparison_has_a_panel_for_each_gaze_step(image, record, prediction, vocabulary, gaze):
    small = image[::5, ::5]
    page = draw_comparison(small, record, prediction, gaze, vocabulary)
    without = Gaze(gaze.points, gaze.actpoints[:0], gaze.weights[:0])
    two = draw_comparison(small, record, prediction, without, vocabulary)
    assert 1.9 < page.shape[1] / two.shape[1] < 2.0
    four = draw_comparison(
        image[:, :].repeat(2, 0).repeat(2, 1), record, prediction, gaze, vocabulary
    )
    assert four.shape[1] < 3 * 1280  # large images: two columns


def test_page_with_gaze_steps_and_without_predictions(image, prediction, vocabulary, gaze):
    page = draw_gaze(image, prediction, gaze, vocabulary, threshold=0.99)
    assert page.shape[1] > 2 * image.shape[1]


def test_grid_has_a_row_for_each_scene(image, record, prediction, vocabulary, gaze):
    scene = (image[::5, ::5], record, prediction, gaze)
    one, three = (draw_grid([scene] * n, vocabulary) for n in (1, 3))
    assert one.shape[1] == three.shape[1]
    assert three.shape[0] - one.shape[0] > 2 * 96 * 4


def test_saved_picture_is_the_picture(tmp_path, image):
    from ggnet.data.images import read_image

    style.save_picture(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), image)
