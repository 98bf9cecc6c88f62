"""What a result says."""

import json

import numpy as np
import pytest
from PIL import Image

from ggnet import Result, Triplet, UserError


@pytest.fixture(scope="module")
def result(model, photo):
    [result] = model(photo)
    return result.above(0)


def test_it_is_a_sequence_of_triplets(result):
    assert isinstance(result[0], Triplet)
    assert len(list(result)) == len(result) > 10
    scores = [t.score for t in result]
    assert scores == sorted(scores, reverse=True)
    assert result[-1] == list(result)[-1]
    assert isinstance(result[:3], Result)
    assert list(result[:3]) == list(result)[:3]
    assert result[2:5][1] == result[3]
    with pytest.raises(IndexError):
        result[len(result)]


def test_triplets_have_names_boxes_and_scores(result, model):
    for triplet in result:
        human, object_ = triplet.human, triplet.object
        assert (human.name, human.label) == ("person", 0)
        assert object_.name == model.objects[object_.label]
        assert triplet.verb == model.verbs[triplet.verb_index]
        for part in (human, object_):
            x1, y1, x2, y2 = part.box
            assert 0 <= x1 < x2 <= result.width == 150
            assert 0 <= y1 < y2 <= result.height == 100
            assert 0 < part.score <= 1
        assert 0 < triplet.score <= min(human.score, object_.score)


def test_above_goes_up_and_down(result):
    middle = result[5].score
    some = result.above(middle)
    assert [t.score >= middle for t in some] == [True] * len(some)
    assert 6 <= len(some) < len(result)
    assert list(some.above(0)) == list(result)
    assert len(result.above(1)) == 0
    assert result.above(1).best == result[0]
    with pytest.raises(UserError, match="threshold is -1"):
        result.above(-1)


def test_repr_is_a_line_a_triplet(result, photo):
    three = result.above(result[2].score)
    lines = repr(three).splitlines()
    assert lines[0].startswith(f"{photo}: {len(three)} of score")
    assert lines[1] == f"  {result[0].score:.2f} person {result[0].verb} {result[0].object.name}"
    assert repr(result).splitlines()[-1] == f"  and {len(result) - 10} more"
    assert f"the best below: {result[0].score:.3g} person" in repr(result.above(1))


def test_json(result):
    values = json.loads(result.to_json())
    assert (values["width"], values["height"], values["threshold"]) == (150, 100, 0)
    first = values["triplets"][0]
    assert first["verb"] == result[0].verb
    assert first["object"]["box"] == list(result[0].object.box)
    assert "frame" not in values


def test_data_frame(result):
    pytest.importorskip("pandas")
    frame = result.to_df()
    assert len(frame) == len(result)
    row = frame.iloc[3]
    assert (row.verb, row.object, row.score) == (
        result[3].verb,
        result[3].object.name,
        result[3].score,
    )
    assert row.object_x2 == result[3].object.box[2]
    assert len(result.above(1).to_df()) == 0


def test_supervision(result):
    pytest.importorskip("supervision")
    detections = result.to_supervision()
    assert 0 < len(detections) <= 2 * len(result)
    human, verb, object_, score = detections.metadata["triplets"][4]
    assert (verb, score) == (result[4].verb, result[4].score)
    np.testing.assert_allclose(detections.xyxy[object_], result[4].object.box)
    assert detections.data["class_name"][human] == "person"
    assert len(result.above(1).to_supervision()) == 0


def test_pictures(result, tmp_path):
    picture = result.plot(top=3)
    assert (picture.dtype, picture.shape[2]) == (np.uint8, 3)
    assert (picture != result.plot(top=1)).any()
    assert result.plot(actpoints=True).shape[1] > 2 * picture.shape[1]
    for name, format_ in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("b.webp", "WEBP")):
        result.save(tmp_path / name, top=3)
        with Image.open(tmp_path / name) as image:
            assert image.format == format_
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), picture)
    with pytest.raises(UserError, match=r"a\.xyz.*\.png"):
        result.save(tmp_path / "a.xyz")
    assert not (tmp_path / "a.xyz").exists()
