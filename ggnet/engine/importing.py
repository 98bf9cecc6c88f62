"""`ggnet import` turns published weights into files of this package; `train.init` starts from them.

Two kinds of file come out:

- a checkpoint, ready for `ggnet eval`, `ggnet predict` and `train.init`, of GGNet and PPDM
- initial weights (format, environment, source, objects, weights), for `train.init` alone, of
  CenterNet's detectors and of DLA-34 or a ResNet trained on ImageNet
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ggnet.config import Config, ModelConfig
from ggnet.data.annotations import load_dataset
from ggnet.data.tables import hico_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import (
    check_finite,
    find_checkpoint,
    read_torch_file,
    renamed,
    save_checkpoint,
)
from ggnet.errors import UserError, reader, reading
from ggnet.models import build_model
from ggnet.models.importers import Imported, import_weights, listed

WEIGHTS = "weights"  # the key that only files of initial weights have


@reader("published weights")
def import_file(
    source: str | os.PathLike, out: str | os.PathLike, dataset: str | os.PathLike | None = None
) -> Imported:
    """Write published weights as a checkpoint or as initial weights, whichever they are good for.

    Args:
        source: a .pth file: a state dict, or a dict that has one as "state_dict".
        out: the file to write.
        dataset: folder whose vocabulary the network was trained for; HICO-DET needs none. Its
            objects and verbs must be in the order of their ids, which is that of the channels.

    Raises:
        UserError: a file that cannot be read or written, or is none of the known networks; no
            dataset, or one that does not fit.
    """
    if Path(source).resolve() == Path(out).resolve():
        raise UserError(f"{out} would replace the file that is imported; choose another name")
    found = import_weights(_published(source), str(source))
    if found.num_verbs is None:
        save_checkpoint(
            Path(out),
            {"source": found.source.title, "objects": _objects(found, source)}
            | {WEIGHTS: found.state},
        )
        return found
    vocabulary = _vocabulary(found, source, dataset)
    config = Config(model=found.model)
    config.data.input_size, config.data.compat = (512, 512), "original"
    config.eval.allow_same = True
    if dataset is not None:
        config.data.root = str(dataset)
    save_checkpoint(
        Path(out),
        {
            "config": config.model_dump(mode="json"),
            "vocabulary": vocabulary.to_dict(),
            "model": found.state,
            "ema": None,
            "optimizer": None,
            "progress": {"epoch": 0},
            "rng": None,
        },
    )
    return found


def load_initial_weights(
    model: nn.Module, path: str | os.PathLike, config: ModelConfig, vocabulary: Vocabulary
) -> str:
    """Copy what fits from initial weights, a checkpoint or a run; the rest stays as it is.

    The file's backbone must fit. Of the heads, those are left that the file does not have or has
    in another shape, and whatever depends on the number of objects or verbs where the file's
    objects or verbs are not `vocabulary`'s.

    Args:
        path: a file; or "timm", for the pretrained weights of a `TimmBackbone`.

    Returns:
        What was copied, what stays random and what was not used, for people.

    Raises:
        UserError: an unreadable file, or one with another backbone.
    """
    if path == "timm":
        return model.backbone.load_pretrained()
    with reading(path, "a checkpoint or initial weights"):
        return _copy_fitting(model, path, config, vocabulary)


def _copy_fitting(
    model: nn.Module, path: str | os.PathLike, config: ModelConfig, vocabulary: Vocabulary
) -> str:
    weights, objects, verbs = _initial(path)
    own = model.state_dict()
    of_other_classes: set[str] = set()
    if objects != vocabulary.objects:
        of_other_classes |= _depending_on("objects", own, config, vocabulary)
    if verbs != vocabulary.verbs:
        of_other_classes |= _depending_on("verbs", own, config, vocabulary)
    fitting = {
        name: value
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape and name not in of_other_classes
    }
    unused = [name for name in weights if name not in fitting]
    if wrong := [name for name in unused if name.startswith("backbone.")]:
        raise UserError(
            f"{path} holds another backbone than {config.backbone}: no place for {listed(wrong)}. "
            "Set model.backbone to the file's, or train.init to another file"
        )
    model.load_state_dict(own | fitting)
    text = f"{len(fitting)} tensors from {path}"
    if random := _modules(name for name in own if name not in fitting):
        text += f"; random: {random}"
    if unused:
        text += f"; not used: {_modules(unused)}"
    return text


def _published(path: str | os.PathLike) -> dict[str, Tensor]:
    """The state dict in a published file, without DataParallel's "module."."""
    values = read_torch_file(path)
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if isinstance(values, dict) and (WEIGHTS in values or "vocabulary" in values):
        raise UserError(
            f"{path} is a file of this package already; `ggnet predict`, `ggnet eval` and "
            "train.init read it as it is"
        )
    if not isinstance(values, dict) or not values:
        raise UserError(f"{path} holds no state dict; expected names and tensors, or 'state_dict'")
    for key, value in values.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: '{key}' is a {type(value).__name__}; expected a tensor")
    check_finite(values, path)
    return {key.removeprefix("module."): value for key, value in values.items()}


def _objects(found: Imported, source: str | os.PathLike) -> tuple[str, ...]:
    """The names of the detection head's channels; none without a head."""
    if found.num_objects is None:
        return ()
    names = hico_vocabulary().objects
    if found.num_objects != len(names):
        raise UserError(f"{source} detects {found.num_objects} classes; expected COCO's 80")
    return names


def _vocabulary(
    found: Imported, source: str | os.PathLike, dataset: str | os.PathLike | None
) -> Vocabulary:
    counts = found.num_objects, found.num_verbs
    if dataset is None:
        vocabulary = hico_vocabulary()
        if counts != (len(vocabulary.objects), len(vocabulary.verbs)):
            raise UserError(
                f"{source} knows {counts[0]} objects and {counts[1]} verbs, which is not HICO-DET; "
                "give the dataset folder with --dataset (V-COCO: 80 objects and 25 verbs, its "
                "valid pairs are in the trainval annotations)"
            )
        return vocabulary
    vocabulary = load_dataset(dataset).vocabulary
    theirs = len(vocabulary.objects), len(vocabulary.verbs)
    if counts != theirs:
        raise UserError(
            f"{source} knows {counts[0]} objects and {counts[1]} verbs, {dataset} has {theirs[0]} "
            f"and {theirs[1]}; give the dataset that the weights were trained on"
        )
    for kind, ids in (("objects", vocabulary.object_ids), ("verbs", vocabulary.verb_ids)):
        if list(ids) != sorted(ids):
            raise UserError(
                f"{dataset} lists its {kind} in another order than that of their ids, which is "
                "the order of the published channels"
            )
    return vocabulary


def _initial(
    path: str | os.PathLike,
) -> tuple[dict[str, Tensor], tuple[str, ...] | None, tuple[str, ...] | None]:
    """Weights, objects and verbs of a file of initial weights or a checkpoint."""
    values: Any = read_torch_file(find_checkpoint(path))
    if isinstance(values, dict) and WEIGHTS in values:
        check_finite(values[WEIGHTS], path)
        return renamed(values[WEIGHTS]), tuple(values["objects"]), None
    if isinstance(values, dict) and {"model", "ema", "vocabulary"} <= values.keys():
        vocabulary = Vocabulary.from_dict(values["vocabulary"])
        weights = values["ema"] or values["model"]
        check_finite(weights, path)
        return renamed(weights), vocabulary.objects, vocabulary.verbs
    raise UserError(
        f"{path} is neither a checkpoint nor initial weights; `ggnet import` makes them from "
        "published files"
    )


def _depending_on(
    kind: str, own: dict[str, Tensor], config: ModelConfig, vocabulary: Vocabulary
) -> set[str]:
    """Names of the tensors whose shape depends on the number of objects or verbs."""
    counts = {"objects": len(vocabulary.objects), "verbs": len(vocabulary.verbs)}
    counts[kind] *= 4
    with torch.device("meta"):
        other = build_model(config, counts["objects"], counts["verbs"]).state_dict()
    return {name for name, value in own.items() if value.shape != other[name].shape}


def _modules(names: Iterable[str]) -> str:
    """The modules that tensors belong to, stacks and hourglasses taken together."""
    found = {}
    for name in names:
        parts = [part for part in name.split(".") if not re.fullmatch(r"\d+", part)]
        found[".".join(parts[: 3 if parts[1] == "verbs" else 2])] = None
    return ", ".join(found)
