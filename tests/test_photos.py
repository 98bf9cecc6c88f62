"""Real photographs: a network that is trained on four of them finds everything in them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ggnet.config import parse_config
from ggnet.data.annotations import load_annotations
from ggnet.data.dataset import make_loader
from ggnet.data.images import read_image
from ggnet.data.tables import hico_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.inference import Predictor
from ggnet.engine.optim import build_optimizer, set_lr
from ggnet.eval.hico import evaluate
from ggnet.models import build_model
from ggnet.nn import GGNetLoss
from ggnet.viz.draw import draw_comparison, match_truth
from ggnet.viz.style import save_picture

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"
STEPS, EVERY = 180, 30
CONFIG = parse_config(
    {
        "model": {"points_per_step": 9},
        # A size at which no two interaction points of a verb, nor centers of an object, are
        # neighbors on the feature map: as peaks they could not both be found.
        "data": {"input_size": [192, 272], "augment": False, "workers": 0},
        "train": {
            "batch_size": 4,
            "lr": 1e-2,
            "lr_schedule": "onecycle",
            "epochs": STEPS,
            "glance_lr_multiplier": 1.0,
            "clip": 5.0,
        },
    }
)


def vocabulary_of(objects: set[str], verbs: set[str]) -> Vocabulary:
    """The part of HICO's vocabulary with these names."""
    hico = hico_vocabulary()
    kept_objects = [i for i, name in enumerate(hico.objects) if name in objects]
    kept_verbs = [i for i, name in enumerate(hico.verbs) if name in verbs]
    return Vocabulary(
        name="photos",
        objects=tuple(hico.objects[i] for i in kept_objects),
        object_ids=tuple(hico.object_ids[i] for i in kept_objects),
        verbs=tuple(hico.verbs[i] for i in kept_verbs),
        verb_ids=tuple(hico.verb_ids[i] for i in kept_verbs),
        hois=tuple(
            (kept_verbs.index(verb), kept_objects.index(object_))
            for verb, object_ in hico.hois
            if verb in kept_verbs and object_ in kept_objects
        ),
    )


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the photos are not at {PHOTOS}")
def test_training_on_four_photos_finds_everything_in_them(tmp_path):
    vocabulary = vocabulary_of(
        {"person", "bicycle", "motorcycle", "boat", "dog", "backpack"},
        {"carry", "hold", "no_interaction", "ride", "sit_on", "straddle", "wear"},
    )
    records = load_annotations(PHOTOS / "photos.json", PHOTOS, vocabulary)
    torch.manual_seed(0)
    model = build_model(CONFIG.model, len(vocabulary.objects), len(vocabulary.verbs))
    predictor = Predictor(model, vocabulary, CONFIG, torch.device("cpu"))
    optimizer, loss = build_optimizer(model, CONFIG.train), GGNetLoss(CONFIG.loss)
    [batch] = make_loader(records, vocabulary, CONFIG, train=True)
    [unseen] = make_loader(records, vocabulary, CONFIG, train=False)
    for step in range(STEPS):
        model.train()
        set_lr(optimizer, CONFIG.train, step, steps_per_epoch=1)
        optimizer.zero_grad()
        loss(model(batch.images), batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.train.clip)
        optimizer.step()
        if (step + 1) % EVERY == 0:
            found = predictor.look(unseen.images, unseen.meta)
            result = evaluate([prediction for prediction, _ in found], records, vocabulary)
            if result.mean_ap() == 100:
                break
    assert result.mean_ap() == 100, result.to_dict()["classes"]
    assert result.mean_ap("known-object") == 100

    for record, (prediction, gaze) in zip(records, found, strict=True):
        assert (match_truth(prediction, record) >= 0).sum() == len(record.pairs)
        image = read_image(record.path)
        page = draw_comparison(image, record, prediction, gaze, vocabulary, top=len(record.pairs))
        save_picture(tmp_path / f"{record.image_id}.png", page)
        assert np.ptp(page) == 255
