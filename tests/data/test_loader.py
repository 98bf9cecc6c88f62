"""The loader: determinism, resuming, sharing among processes, bad images."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ggnet.config import load_config
from ggnet.data.annotations import load_annotations
from ggnet.data.batch import Batch, ImageBatch
from ggnet.data.dataset import EpochBatches, HOIDataset, default_workers, make_loader
from ggnet.data.problems import Problems
from ggnet.data.tables import hico_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError

VOCABULARY = Vocabulary(
    "tiny", ("person", "dog"), (1, 18), ("pet", "walk", "hug"), (1, 2, 3), ((0, 1), (1, 1), (2, 1))
)
COUNT = 11


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Eleven noisy images of different sizes; the fourth has no annotations."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    entries = []
    for number in range(COUNT):
        height, width = rng.integers(60, 120, 2)
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"{number}.png")
        boxes = [[5, 8, 30, 50], [25, 15, 55, 45]]
        annotations = [
            {"bbox": box, "category_id": id_} for box, id_ in zip(boxes, (1, 18), strict=True)
        ]
        pairs = [{"subject_id": 0, "object_id": 1, "category_id": number % 3 + 1}]
        entries.append(
            {
                "file_name": f"{number}.png",
                "annotations": [] if number == 3 else annotations,
                "hoi_annotation": [] if number == 3 else pairs,
            }
        )
    path = root / "train.json"
    path.write_text(json.dumps(entries))
    return load_annotations(path, root, VOCABULARY)


def config(**overrides):
    values = {"data.input_size": [64, 64], "data.workers": 0, "train.batch_size": 2}
    values |= overrides
    return load_config(None, [f"{key}={value}" for key, value in values.items()])


def names(batches):
    return [[meta.file_name for meta in batch.meta] for batch in batches]


def assert_same(left: Batch, right: Batch):
    for field in dataclasses.fields(Batch):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if field.name == "seconds" or (field.name == "colors" and a is b is None):
            continue
        if field.name == "meta":
            for one, two in zip(a, b, strict=True):
                assert one.file_name == two.file_name
                np.testing.assert_array_equal(one.affine, two.affine)
        else:
            assert torch.equal(a, b), field.name


def test_batch_shapes_dtypes_and_memory_format(records):
    (batch,) = make_loader(records, VOCABULARY, config(**{"train.batch_size": 11}), train=True)
    assert len(batch) == COUNT
    assert batch.images.shape == (COUNT, 3, 64, 64)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for name in ("objects", "interactions", "hard_negatives"):
        values = getattr(batch, name)
        assert values.dtype == torch.int32
        assert values.shape[1] == 4
        assert values[:, 0].tolist() == sorted(values[:, 0].tolist())
        assert values[:, 2:].min() >= 0
        assert values[:, 2:].max() < 16
    assert len(batch.objects) == len(batch.object_radii) == len(batch.sizes)
    assert len(batch.interactions) == len(batch.human_offsets) == len(batch.interaction_radii)
    empty = [meta.file_name for meta in batch.meta].index("3.png")
    assert empty not in batch.objects[:, 0].tolist()


def test_targets_belong_to_their_image(records):
    """Without augmentation the boxes come back from the targets through the affine."""
    settings = config(**{"train.batch_size": 11, "data.augment": False})
    (batch,) = make_loader(records, VOCABULARY, settings, train=True)
    by_name = {record.file_name: record for record in records}
    for number, meta in enumerate(batch.meta):
        record = by_name[meta.file_name]
        mine = batch.objects[:, 0] == number
        cells = batch.objects[mine][:, [3, 2]] + batch.centers_frac[mine]
        half = batch.sizes[mine] / 2
        boxes = torch.cat([cells - half, cells + half], dim=1).numpy() * 4
        affine = meta.affine
        original = (boxes.reshape(-1, 2, 2) - affine[:, 2]) / affine.diagonal()
        np.testing.assert_allclose(original.reshape(-1, 4), record.boxes, atol=1e-3)
        assert batch.objects[mine, 1].tolist() == record.labels.tolist()
        verbs = batch.interactions[batch.interactions[:, 0] == number, 1]
        assert verbs.tolist() == record.pairs[:, 2].tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_gets_images_and_no_targets(records, workers):
    settings = config(**{"data.workers": workers, "eval.batch_size": 4})
    batches = list(make_loader(records, VOCABULARY, settings, train=False))
    assert [type(batch) for batch in batches] == [ImageBatch] * 3
    assert [name for batch in names(batches) for name in batch] == [r.file_name for r in records]
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)


def test_the_same_batches_with_any_number_of_workers(records):
    def batches(workers):
        loader = make_loader(records, VOCABULARY, config(**{"data.workers": workers}), train=True)
        result = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            result += list(loader)
        return result

    alone, helped = batches(0), batches(2)
    assert len(alone) == 2 * (COUNT // 2)
    for left, right in zip(alone, helped, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("train", [True, False])
def test_a_gpu_gets_bytes(records, workers, train):
    """A quarter of what the network takes, which `to` makes of them."""

    def batches(device):
        settings = config(**{"data.workers": workers, "eval.batch_size": 4})
        return list(make_loader(records, VOCABULARY, settings, train=train, device=device))

    for mine, theirs in zip(batches("cuda"), batches("cpu"), strict=True):
        assert mine.images.dtype == torch.uint8
        assert (mine.colors is None) == (not train)
        ready = mine.to("cpu")
        assert ready.colors is None
        atol = 1e-5 if train else 0
        torch.testing.assert_close(ready.images, theirs.images, rtol=0, atol=atol)


def test_epochs_differ_in_order_and_augmentation(records):
    loader = make_loader(records, VOCABULARY, config(), train=True)
    first, again = list(loader), list(loader)
    loader.set_epoch(1)
    second = list(loader)
    assert names(first) == names(again)
    assert names(first) != names(second)
    dataset = loader.dataset
    pixels = [dataset[key]["input"].pixels for key in ((0, 5), 5, (1, 5))]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


def test_augmentation_differs_between_images(records):
    """A seed shared by all workers would give every image of a step the same crop."""
    dataset = HOIDataset([records[0]] * 8, VOCABULARY, config(), train=True)
    affines = {tuple(dataset[index]["input"].meta.affine.ravel()) for index in range(8)}
    assert len(affines) == 8


def test_resuming_skips_without_loading(records, monkeypatch):
    loader = make_loader(records, VOCABULARY, config(), train=True)
    loader.set_epoch(4)
    whole = list(loader)
    loaded = []
    original = HOIDataset.__getitem__
    monkeypatch.setattr(
        HOIDataset, "__getitem__", lambda self, key: (loaded.append(key), original(self, key))[1]
    )
    loader.set_epoch(4, start=3)
    rest = list(loader)
    assert len(loaded) == 2 * len(rest)
    assert len(loader) == len(whole) == 5
    for left, right in zip(whole[3:], rest, strict=True):
        assert_same(left, right)


def keys(**changes):
    values = {"count": 23, "batch_size": 4, "train": True, "seed": 1, "rank": 0, "world_size": 1}
    return list(EpochBatches(**(values | changes)))


def test_an_epoch_has_no_image_twice():
    indices = [index for batch in keys() for _, index in batch]
    assert len(indices) == 20
    assert len(set(indices)) == 20


def test_two_processes_share_the_batches_of_one():
    shares = [keys(batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    joined = [left + right for left, right in zip(*shares, strict=True)]
    assert joined == keys()


def test_every_process_has_as_many_batches():
    for count in range(3, 40):
        lengths = {len(keys(count=count, rank=rank, world_size=3)) for rank in range(3)}
        assert len(lengths) == 1
        assert lengths.pop() >= 1


def test_fewer_images_than_a_batch_make_one_batch():
    assert [len(batch) for batch in keys(count=3)] == [3]
    with pytest.raises(UserError, match="3 training images for 4 processes"):
        keys(count=3, world_size=4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 50])
def test_evaluation_covers_every_image_once(world_size):
    indices = []
    for rank in range(world_size):
        batches = keys(train=False, rank=rank, world_size=world_size)
        sampler = EpochBatches(23, 4, train=False, seed=1, rank=rank, world_size=world_size)
        assert len(sampler) == len(batches)
        indices += [index for batch in batches for _, index in batch]
    assert sorted(indices) == list(range(23))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_stops_with_its_name(records, tmp_path, workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(records[0].path.read_bytes()[:2000])
    bad = dataclasses.replace(records[0], path=broken)
    loader = make_loader(
        [records[1], bad], VOCABULARY, config(**{"data.workers": workers}), train=False
    )
    with pytest.raises(UserError, match="broken.png") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


def test_caps_are_reported(records, caplog):
    problems = Problems()
    settings = config(**{"data.max_objects": 1, "data.max_pairs": 1})
    two_pairs = dataclasses.replace(
        records[1], pairs=np.array([[0, 0, 0], [0, 0, 1]]), boxes=records[1].boxes
    )
    dataset = HOIDataset(
        [records[0], two_pairs], VOCABULARY, settings, train=True, problems=problems
    )
    assert problems.counts == {"boxes beyond the cap": 2, "pairs beyond the cap": 1}
    assert [len(record.boxes) for record in dataset.records] == [1, 1]
    assert [len(record.pairs) for record in dataset.records] == [0, 1]
    for cap, found in (("max_objects", (1, 2)), ("max_pairs", (2, 1))):
        alone = HOIDataset([two_pairs], VOCABULARY, config(**{f"data.{cap}": 1}), train=True)
        assert (len(alone.records[0].boxes), len(alone.records[0].pairs)) == found
    untouched = HOIDataset([records[0]], VOCABULARY, settings, train=False)
    assert len(untouched.records[0].boxes) == 2
    with caplog.at_level("WARNING", "ggnet"):
        HOIDataset([records[0], two_pairs], VOCABULARY, settings, train=True)
    assert "2 x boxes beyond the cap" in caplog.text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_to_moves_every_tensor(records, device):
    (batch, *_) = make_loader(records, VOCABULARY, config(), train=True, device=device)
    moved = batch.to("meta")
    assert moved.images.dtype == torch.float32
    tensors = [field.name for field in dataclasses.fields(Batch)]
    tensors = [name for name in tensors if name not in ("meta", "colors", "seconds")]
    assert {getattr(moved, name).device.type for name in tensors} == {"meta"}
    assert moved.meta is batch.meta


@pytest.mark.parametrize(("cores", "beside_a_gpu"), [(1, 1), (4, 3), (9, 8), (64, 8)])
def test_how_many_processes_load_images(cores, beside_a_gpu, monkeypatch):
    monkeypatch.setattr("ggnet.data.dataset.cores_of_process", lambda: cores)
    assert default_workers(torch.device("cpu")) == 1
    assert default_workers(torch.device("cuda")) == beside_a_gpu


def test_photos_load_and_give_targets(shared):
    vocabulary = hico_vocabulary()
    photos = load_annotations(shared / "photos" / "photos.json", shared / "photos", vocabulary)
    assert len(photos) == 4
    assert sum(len(record.boxes) for record in photos) == 16
    settings = {"data.input_size": [256, 256], "data.augment": False, "train.batch_size": 4}
    (batch,) = make_loader(photos, vocabulary, config(**settings), train=True)
    assert len(batch.objects) == len(batch.interactions) == 16
    assert vocabulary.verbs.index("ride") in batch.interactions[:, 1].tolist()
