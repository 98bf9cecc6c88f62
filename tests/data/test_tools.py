"""`verify_dataset` finds what is wrong; statistics count."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ggnet.data.annotations import load_dataset
from ggnet.data.tools import dataset_statistics, verify_dataset
from ggnet.errors import UserError
from ggnet.viz.frequencies import plot_frequencies


@pytest.fixture
def root(tmp_path):
    """A dataset of three good images in one split."""
    (tmp_path / "images").mkdir()
    entries = []
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.jpg")
        entries.append(
            {
                "file_name": f"{number}.jpg",
                "annotations": [
                    {"bbox": [0, 0, 50, 80], "category_id": 1},
                    {"bbox": [60, 10, 90, 70], "category_id": 2},
                ],
                "hoi_annotation": [
                    {"subject_id": 0, "object_id": 1, "category_id": verb} for verb in (1, 2)
                ][: number + 1],
            }
        )
    (tmp_path / "train.json").write_text(json.dumps(entries))
    description = {
        "name": "tiny",
        "objects": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "verbs": [{"id": 1, "name": "pet"}, {"id": 2, "name": "walk"}],
        "hois": [[1, 2], [2, 2]],
        "splits": {"train": {"annotations": "train.json", "images": "images"}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    return tmp_path


def test_a_good_dataset_has_no_problems(root):
    calls = []
    result = verify_dataset(root, progress=lambda done, total: calls.append((done, total)))
    assert result.ok
    assert result.counts == {"train": (3, 6, 0, 5)}
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_truncated_images_and_boxes_outside_are_found(root):
    whole = (root / "images" / "1.jpg").read_bytes()
    (root / "images" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    entries = json.loads((root / "train.json").read_text())
    entries[2]["annotations"][1]["bbox"] = [100, 10, 120, 70]
    (root / "train.json").write_text(json.dumps(entries))
    result = verify_dataset(root)
    assert not result.ok
    assert result.problems.counts == {"unreadable image": 1, "box outside the image": 1}
    text = str(result.problems)
    assert "1.jpg" in text
    assert "bbox [100, 10, 120, 70] in an image of 100x80" in text
    assert verify_dataset(root, read_images=False).ok


def test_helpers_find_the_same(root, monkeypatch):
    (root / "images" / "1.jpg").write_bytes(b"")
    alone = verify_dataset(root)
    monkeypatch.setattr("ggnet.data.tools.IN_PROCESS", 0)
    helped = verify_dataset(root, workers=2)
    assert helped.problems.items == alone.problems.items


def test_duplicates_and_unusable_splits_do_not_end_the_check(root):
    entries = json.loads((root / "train.json").read_text())
    (root / "train.json").write_text(json.dumps([*entries, entries[0]]))
    description = json.loads((root / "dataset.json").read_text())
    description["splits"]["test"] = {"annotations": "none.json", "images": "images"}
    (root / "dataset.json").write_text(json.dumps(description))
    result = verify_dataset(root)
    assert result.problems.counts == {"duplicate image": 1, "split unusable": 1}
    assert result.counts["train"][0] == 3
    assert result.problems.table().row_count == 2
    with pytest.raises(UserError, match=r"has no dataset\.json"):
        verify_dataset(root / "images")


def test_records_are_checked_without_the_image_folder(root):
    entries = json.loads((root / "train.json").read_text())
    entries[0]["hoi_annotation"][0]["object_id"] = -1
    (root / "train.json").write_text(json.dumps(entries))
    (root / "images").rename(root / "elsewhere")
    result = verify_dataset(root)
    assert result.problems.counts == {"no image folder": 1, "index out of range": 1}
    assert result.counts == {"train": (3, 6, 0, 4)}


def lay(root, entries, lying):
    """Images of 80 x 40 with boxes at their right edge; `lying` have a tag that turns them."""
    for number, entry in enumerate(entries):
        exif = Image.Exif()
        exif[0x0112] = 6 if number in lying else 1
        Image.new("RGB", (80, 40)).save(root / "images" / entry["file_name"], exif=exif)
        for annotation in entry["annotations"]:
            annotation["bbox"] = [50, 10, 78, 38]
    (root / "train.json").write_text(json.dumps(entries))
    return verify_dataset(root).problems


def test_boxes_of_the_unturned_image_are_named(root):
    """Where they fit the stored pixels and the EXIF tag says that these lie."""
    entries = json.loads((root / "train.json").read_text())
    assert not lay(root, entries, lying=())
    problems = lay(root, entries, lying=(1,))
    assert [(p.kind, p.file.name) for p in problems.items] == [
        ("boxes of the unturned image", entries[1]["file_name"])
    ]
    (problem,) = lay(root, entries, lying=(0, 1, 2)).items
    assert problem.kind == "split unusable"
    assert "boxes of 3 of 3 images fit the pixels as they are stored" in problem.got
    Image.new("RGB", (40, 80)).save(root / "images" / entries[1]["file_name"])  # no tag says so
    lone = verify_dataset(root).problems.counts
    assert "boxes of the unturned image" not in lone


def test_statistics(root, tmp_path):
    dataset = load_dataset(root)
    statistics = dataset_statistics(dataset.load("train"), dataset.vocabulary)
    assert statistics.images == 3
    assert statistics.objects.tolist() == [3, 3]
    assert statistics.verbs.tolist() == statistics.hois.tolist() == [3, 2]
    assert statistics.pairs_per_image.tolist() == [1, 2, 2]
    assert statistics.verbs_per_pair == pytest.approx(5 / 3)
    assert statistics.table().row_count == 7
    assert statistics.table(dataset.rare_hois()).row_count == 8
    assert statistics.frequency_table("hois", 1).row_count == 1
    plot_frequencies(statistics, tmp_path / "frequencies.png")
    assert Image.open(tmp_path / "frequencies.png").size[0] > 500


def test_statistics_of_nothing(root):
    statistics = dataset_statistics([], load_dataset(root).vocabulary)
    assert statistics.hois.tolist() == [0, 0]
    assert statistics.table().row_count == 7


def test_rare_is_what_is_rare_in_training(root):
    """Whatever the split that is described has."""
    dataset = load_dataset(root)
    assert dataset.train_counts.tolist() == [3, 2]
    assert dataset.rare_hois().tolist() == [True, True]
    assert dataset.rare_hois(3).tolist() == [False, True]
    listed = replace(dataset, rare=np.array([True, False]))
    assert listed.rare_hois().tolist() == [True, False]
    assert replace(dataset, splits={}).rare_hois() is None
    statistics = dataset_statistics(dataset.load("train"), dataset.vocabulary)
    columns = [list(c.cells) for c in statistics.table(listed.rare_hois()).columns]
    assert columns[1][columns[0].index("of them rare in training")] == "1 of 1"
