"""Small things that several tests are about."""

from pathlib import Path

import torch

from ggnet.config import Config
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import BEST, save_checkpoint
from ggnet.models import build_model

# People with balls and cups: a verb of two objects, two of one.
CUPS = Vocabulary(
    name="cups",
    objects=("person", "ball", "cup"),
    object_ids=(1, 2, 3),
    verbs=("hold", "drink", "throw"),
    verb_ids=(1, 2, 3),
    hois=((0, 1), (0, 2), (1, 2), (2, 1)),
)


def save_untrained(folder: Path, config: Config, vocabulary: Vocabulary = CUPS) -> dict:
    """Leave the checkpoint of a fresh network in a folder, as a run would; returns its state."""
    torch.manual_seed(0)
    network = build_model(config.model, len(vocabulary.objects), len(vocabulary.verbs))
    state = {
        "config": config.model_dump(mode="json"),
        "vocabulary": vocabulary.to_dict(),
        "model": network.state_dict(),
        "ema": None,
        "optimizer": None,
        "progress": {"epoch": 0},
        "rng": None,
    }
    save_checkpoint(folder / BEST, state)
    return state
