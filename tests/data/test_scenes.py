"""The bundled dataset: what its pictures and annotations promise."""

import hashlib
import json
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from ggnet.data.annotations import hoi_counts, load_dataset
from ggnet.data.problems import Problems
from ggnet.data.scenes import generate, layout, recipe, statistics
from ggnet.data.scenes.generate import plan_images
from ggnet.data.scenes.layout import sample_scene
from ggnet.data.scenes.render import render
from ggnet.errors import UserError


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    generate(folder, train=60, test=60, seed=3, workers=1)
    return folder


@pytest.fixture(scope="module")
def scenes() -> list[layout.Scene]:
    plans = plan_images(60, True, np.random.default_rng(0))
    return [sample_scene(plan, np.random.default_rng([0, i])) for i, plan in enumerate(plans)]


def test_workers_do_not_change_a_byte(root, tmp_path):
    calls = []
    generate(
        tmp_path / "again",
        train=60,
        test=60,
        seed=3,
        workers=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert digest(tmp_path / "again") == digest(root)
    assert calls == [(done, 120) for done in range(1, 121)]


def test_seed_changes_the_pictures(root, tmp_path):
    generate(tmp_path / "other", train=1, test=1, seed=4, workers=1)
    image = Path("images/train/000000.png")
    assert (tmp_path / "other" / image).read_bytes() != (root / image).read_bytes()


def test_existing_dataset_is_kept_or_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "scenes"
    generate(folder, train=3, test=1, workers=1)
    before = digest(folder)
    made = (folder / "dataset.json").stat().st_mtime_ns
    generate(folder, train=3, test=1, workers=1)
    assert (folder / "dataset.json").stat().st_mtime_ns == made
    (folder / "images/train/000001.png").unlink()
    generate(folder, train=3, test=1, workers=1)
    assert digest(folder) == before
    generate(folder, train=2, test=1, workers=1)
    assert len(list((folder / "images/train").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


@pytest.mark.parametrize("name", ["thesis.txt", "dataset.json"])
def test_foreign_folder_is_refused_untouched(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"not a generated dataset.*{name}"):
        generate(tmp_path, train=1, test=1)
    assert digest(tmp_path).keys() == {name}


def test_own_folder_with_foreign_files_is_refused(tmp_path):
    folder = tmp_path / "scenes"
    generate(folder, train=1, test=1, workers=1)
    (folder / "notes.md").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.md"):
        generate(folder, train=2, test=1)
    assert (folder / "notes.md").exists()


def test_failure_leaves_nothing_behind(tmp_path):
    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "scenes", train=2, test=1, workers=1, progress=fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"train": 0}, {"test": -1}, {"seed": -1}, {"size": 8}])
def test_bad_arguments_are_named(tmp_path, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} is {value}"):
        generate(tmp_path / "scenes", **wrong)


def test_target_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "scenes").write_text("")
    with pytest.raises(UserError, match="is a file"):
        generate(tmp_path / "scenes")


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file"):
        generate(tmp_path / "file" / "scenes", train=1, test=1, workers=1)


def test_real_loader_reads_everything(root):
    dataset = load_dataset(root)
    for split, count in (("train", 60), ("test", 60)):
        problems = Problems()
        records = dataset.load(split, problems)
        assert not len(problems)
        assert len(records) == count
        for record in records:
            image = cv2.imread(str(record.path))
            assert image.shape == (128, 128, 3)
            assert record.boxes.min() >= 0
            assert record.boxes.max() <= 128
            assert (record.boxes[:, 2:] - record.boxes[:, :2] >= 3).all()
            assert len(record.pairs)
            assert (record.labels[record.pairs[:, 0]] == 0).all()
            assert dataset.vocabulary.valid_pairs[
                record.pairs[:, 2], record.labels[record.pairs[:, 1]]
            ].all()


def test_hoi_ids_name_the_verb_and_the_object(root):
    description = json.loads((root / "dataset.json").read_text())
    for entry in json.loads((root / "train.json").read_text()):
        for pair in entry["hoi_annotation"]:
            object_id = entry["annotations"][pair["object_id"]]["category_id"]
            hoi = description["hois"][pair["hoi_category_id"] - 1]
            assert hoi == [pair["category_id"], object_id]


def test_size_scales_pictures_and_boxes(root, tmp_path):
    generate(tmp_path / "large", train=1, test=1, seed=3, size=192, workers=1)
    generate(tmp_path / "small", train=1, test=1, seed=3, size=128, workers=1)
    large, small = (load_dataset(tmp_path / name).load("test")[0] for name in ("large", "small"))
    assert cv2.imread(str(large.path)).shape == (192, 192, 3)
    np.testing.assert_allclose(large.boxes, small.boxes * 1.5, atol=0.02)


def test_pose_and_state_together_decide_the_verb(scenes):
    verbs_of_cue = {cue: set(verbs) for cue, verbs in recipe.TABLE.items()}
    assert all(len(verbs) == len(recipe.STATES) for verbs in verbs_of_cue.values())
    assert not any(a & b for a, b in combinations(verbs_of_cue.values(), 2))
    for scene in scenes:
        for person, object_, action in scene.pairs:
            cues, thing = scene.items[person].cues, scene.items[object_]
            expected = {recipe.TABLE[cue][recipe.STATES.index(thing.state)] for cue in cues}
            assert set(action.verbs) == expected
            assert thing.name == action.object


def test_no_cue_and_no_state_alone_tells_the_verb_of_an_object():
    for object_, verbs in recipe.OBJECT_VERBS.items():
        assert 6 <= len(verbs) <= 8
        cues, states = zip(*(recipe.CUE_STATE[verb] for verb in verbs), strict=True)
        assert min(states.count(state) for state in recipe.STATES) >= 2, object_
        assert sum(cues.count(cue) >= 2 for cue in recipe.CUES) >= 2, object_


def test_place_alone_does_not_tell_the_verb():
    places = list(recipe.LAYOUT.values())
    assert all(places.count(place) > 1 for place in places)
    distances = [distance for _, distance in places]
    assert max(distances) * 1.2 / (min(distances) * 0.8) >= 2.5


def test_exactly_the_people_who_act_point_at_their_object(scenes):
    for scene in scenes:
        links = {(id(scene.items[p]), id(scene.items[o])) for p, o, _ in scene.pairs}
        aimed = [aim.target for aim in scene.aims if aim.target is not None]
        assert len(aimed) == len(links)
        assert {id(target) for target in aimed} == {object_ for _, object_ in links}
        for aim in scene.aims:
            if aim.target is None:
                continue
            towards = aim.target.center - aim.shoulder
            assert towards @ aim.direction > np.cos(np.radians(5)) * np.linalg.norm(towards)


def test_boxes_are_tight_about_what_is_drawn(scenes):
    """Drawn alone on a plain ground, a figure fills its box and nothing outside it."""
    for scene in scenes[:20]:
        for item in scene.items:
            canvas = np.zeros((512, 512, 3), np.uint8)
            item.drawings[-1].draw(canvas, 4.0)  # speed lines, if any, come first
            ys, xs = np.nonzero(canvas.any(2))
            drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 4
            np.testing.assert_allclose(drawn, item.box, atol=0.75)


def test_crossing_pairs_share_their_midpoint(scenes):
    crossing = 0
    for scene in scenes:
        if layout.CROSSING in scene.kinds:
            crossing += 1
            (p, o, first), (q, r, second) = scene.pairs[:2]
            middles = [
                (scene.items[a].center + scene.items[b].center) / 2 for a, b in ((p, o), (q, r))
            ]
            assert np.linalg.norm(middles[0] - middles[1]) < 8
            assert not set(first.verbs) & set(second.verbs)
    assert 0.2 < crossing / len(scenes) < 0.5


def test_some_pairs_share_an_object_or_a_person():
    plans = plan_images(400, False, np.random.default_rng(1))
    kinds = [kind for plan in plans for kind, _ in plan]
    assert {layout.SAME_OBJECT, layout.SAME_PERSON, layout.CROSSING, layout.APART} <= set(kinds)
    index = next(i for i, plan in enumerate(plans) if plan[0][0] == layout.SAME_PERSON)
    scene = sample_scene(plans[index], np.random.default_rng(1))
    assert scene.pairs[0][0] == scene.pairs[1][0]
    assert scene.pairs[0][1] != scene.pairs[1][1]


def test_train_has_a_long_tail_and_test_is_balanced():
    for balanced, images in ((False, 2000), (True, 500)):
        plans = plan_images(images, balanced, np.random.default_rng(5))
        actions = [action for plan in plans for _, group in plan for action in group]
        names = [(verb, action.object) for action in actions for verb in action.verbs]
        counts = np.array([names.count(hoi) for hoi in recipe.HOIS])
        assert 1.9 < len(actions) / images < 2.1
        assert 1.2 < len(names) / len(actions) < 1.45
        if balanced:
            assert counts.max() - counts.min() <= 4
            assert counts.min() >= 15
        else:
            assert counts.min() >= 2
            assert 5 <= (counts < 10).sum() <= 15
            assert counts.max() > 50 * counts.min()


def test_plans_become_scenes_in_full():
    plans = plan_images(30, False, np.random.default_rng(2))
    for i, plan in enumerate(plans):
        scene = sample_scene(plan, np.random.default_rng([2, i]))
        wanted = [action for _, group in plan for action in group]
        assert [action for _, _, action in scene.pairs] == wanted


def test_colors_and_backgrounds_vary(scenes):
    pictures = [render(scene, 64, np.random.default_rng(i)) for i, scene in enumerate(scenes[:8])]
    means = np.array([picture.mean((0, 1)) for picture in pictures])
    assert all(picture.dtype == np.uint8 for picture in pictures)
    assert means.std(0).min() > 5


def test_statistics_agree_with_the_annotations(root):
    numbers = statistics(root)
    records = load_dataset(root).load("test")
    pairs = sum(len(np.unique(record.pairs[:, :2], axis=0)) for record in records)
    assert numbers["test"]["pairs an image"] == pairs / 60
    counts = hoi_counts(records, load_dataset(root).vocabulary)
    assert numbers["test"]["instances of the most frequent HOI"] == counts.max()
    assert 15 < numbers["test"]["% of pairs that cross (midpoints within 8 pixels)"] < 55
    assert 4 < numbers["test"]["hard negatives a pair"] < 8
    low, high = (
        numbers["test"][f"distance of person and object, {end} percentile"]
        for end in ("5th", "95th")
    )
    assert high > 1.8 * low
