"""A network as a folder of the Hugging Face hub: config.json and model.safetensors."""

import json
import os
from pathlib import Path

import ggnet
from ggnet.config import parse_config
from ggnet.data.annotations import read_json
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import Checkpoint, check_finite, renamed
from ggnet.errors import UserError
from ggnet.io import atomic_write

FORMAT, VERSION = "ggnet model", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def is_pretrained(folder: str | os.PathLike) -> bool:
    """Whether a folder is one that `save_pretrained` wrote."""
    return all((Path(folder) / name).is_file() for name in (CONFIG, WEIGHTS))


def save_pretrained(checkpoint: Checkpoint, folder: str | os.PathLike) -> None:
    """Write a checkpoint's network for others: weights, configuration, names, threshold.

    Raises:
        UserError: safetensors is not installed, or a file cannot be written.
    """
    safetensors = _safetensors()
    values = {
        "format": FORMAT,
        "version": VERSION,
        "ggnet": ggnet.__version__,
        "config": checkpoint.config.model_dump(mode="json"),
        "vocabulary": checkpoint.vocabulary.to_dict(),
        "threshold": checkpoint.threshold,
    }
    weights = {name: value.cpu().contiguous() for name, value in checkpoint.weights.items()}
    with atomic_write(Path(folder) / WEIGHTS) as file:
        file.write(safetensors.save(weights))
    with atomic_write(Path(folder) / CONFIG, "w") as file:
        file.write(json.dumps(values, indent=1) + "\n")


def open_pretrained(folder: str | os.PathLike) -> Checkpoint:
    """Read what `save_pretrained` wrote.

    Raises:
        UserError: safetensors is not installed; a file that is broken, of another program or of a
            newer version; weights that are not finite.
    """
    safetensors = _safetensors()
    path = Path(folder) / CONFIG
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(
            f'{path} is not of this package (no "format": "{FORMAT}"); a folder that '
            "save_pretrained of ggnet wrote is expected"
        )
    if values.get("version") != VERSION:
        raise UserError(
            f"{path} has version {values.get('version')!r}; this ggnet {ggnet.__version__} reads "
            f"version {VERSION}"
        )
    try:
        weights = safetensors.load((Path(folder) / WEIGHTS).read_bytes())
    except Exception as error:  # the library has exceptions of its own
        raise UserError(
            f"{Path(folder) / WEIGHTS} cannot be read ({error}); it is truncated or corrupt: "
            "download it again"
        ) from None
    check_finite(weights, Path(folder) / WEIGHTS)
    weights = renamed(weights)
    try:
        config = parse_config(values["config"], f"the configuration in {path}")
        vocabulary = Vocabulary.from_dict(values["vocabulary"])
        threshold = values["threshold"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is broken: {type(error).__name__} {error}") from None
    return Checkpoint(path, {"model": weights, "ema": None}, config, vocabulary, threshold)


def download(repository: str, revision: str | None = None) -> Path:
    """The local copy of a hub repository, from its cache where it is there.

    Raises:
        UserError: huggingface_hub is not installed, or there is no such repository or network.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"no file or folder {repository}; if it is a repository of the Hugging Face hub, "
            "reading it needs huggingface_hub: pip install huggingface_hub safetensors"
        ) from None
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS]
            )
        )
    except Exception as error:  # many kinds: no network, no such repository, no access
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"no file or folder {repository}, and the Hugging Face hub gives no repository of that "
            f"name: {reason}"
        ) from None


def _safetensors():
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(
            "reading and writing model.safetensors needs safetensors: pip install safetensors"
        ) from None
    return safetensors.torch
