"""Checkpoints: one file that holds all it takes to continue a run, or to use its weights.

A dict of plain values and tensors (loadable with `weights_only=True`):

    format       version of this layout
    environment  versions of what wrote it
    config       the configuration, nested plain values
    vocabulary   names and valid pairs (`Vocabulary.to_dict`)
    model        state dict of the network
    ema          state dict of the averaged network, or None
    optimizer    state dict, or None in best.pt
    progress     epoch, step within it, sums of the losses so far, best mAP (`Progress`)
    rng          torch's random states, or None in best.pt
"""

import os
import pickle
import platform
import re
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ggnet
from ggnet.config import Config, parse_config
from ggnet.data.annotations import read_json
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader, reading
from ggnet.eval.report import METRICS
from ggnet.io import atomic_write

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"
_BROKEN = (  # what a file that is no torch file, or a damaged one, makes torch and zipfile raise
    *(RuntimeError, ValueError, KeyError, EOFError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)
_KEYS = {"config", "vocabulary", "model", "ema", "optimizer", "progress", "rng"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (the keys above but format and environment) atomically.

    Raises:
        UserError: the file system refuses; the previous file keeps its content.
    """
    environment = {
        "ggnet": ggnet.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    with atomic_write(path) as file:
        writer = _Writer(file)
        try:
            torch.save({"format": FORMAT, "environment": environment, **state}, writer)
        except Exception:
            if writer.error is not None:  # torch hides it behind its own "unexpected pos"
                raise writer.error from None
            raise


class _Writer:
    """A file that remembers the first write error."""

    def __init__(self, file):
        self.file = file
        self.error: OSError | None = None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def find_checkpoint(source: str | os.PathLike, prefer: str = BEST) -> Path:
    """The checkpoint that `source` means: a file, or in a run folder `prefer`, else the other one.

    Raises:
        UserError: neither exists.
    """
    path = Path(source)
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"no run folder or checkpoint at {path}; check the path")
    for name in (prefer, LAST, BEST):
        if (path / name).is_file():
            return path / name
    raise UserError(
        f"{path} holds neither {BEST} nor {LAST}: not a run folder, or stopped before its first "
        "checkpoint"
    )


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read: what it says, and its averaged weights where it has them."""

    path: Path
    state: dict[str, Any]
    config: Config
    vocabulary: Vocabulary
    threshold: float | None = None  # the score of the best F1, if it was evaluated

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The network's state dict to use: the averaged one where there is one."""
        return self.state["ema"] or self.state["model"]


@reader("a checkpoint of ggnet's trainer")
def open_checkpoint(source: str | os.PathLike, prefer: str = BEST) -> Checkpoint:
    """Read the checkpoint that `source` means; finds and raises as `find_checkpoint` and
    `load_checkpoint`. A folder of `ggnet.engine.hub` will do, too."""
    from ggnet.engine import hub  # which needs this module

    if hub.is_pretrained(source):
        return hub.open_pretrained(source)
    path = find_checkpoint(source, prefer)
    state = load_checkpoint(path)
    vocabulary = Vocabulary.from_dict(state["vocabulary"])
    threshold = best_threshold(path.parent)
    return Checkpoint(path, state, saved_config(state, path), vocabulary, threshold)


def best_threshold(run: Path) -> float | None:
    """The score of the best F1 in a run's metrics.json; None if it was not evaluated.

    Raises:
        UserError: that file is broken.
    """
    path = run / METRICS
    if not path.is_file():
        return None
    found = read_json(path)
    best = found.get("best_f1") if isinstance(found, dict) else None
    try:
        return None if best is None else float(best["threshold"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: best_f1 has no threshold; evaluate the run again") from None


@reader("a checkpoint of ggnet's trainer")
def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises:
        UserError: missing, unreadable, truncated or corrupt; not a checkpoint of this package, or
            one of a newer version; weights that are not finite.
    """
    state = read_torch_file(path)
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise UserError(
            f"{path} is a torch file, but not a checkpoint of ggnet's trainer. Published weights "
            "go through `ggnet import`; initial weights are for train.init"
        )
    if state["format"] > FORMAT:
        raise UserError(
            f"{path} has checkpoint format {state['format']}; this ggnet {ggnet.__version__} reads "
            f"up to {FORMAT}. Upgrade ggnet."
        )
    for name in ("model", "ema"):
        check_finite(state[name] or {}, path)
        state[name] = state[name] and renamed(state[name])
    return state


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Under today's names: what a backbone's deformable layers call `conv_offset` was `points`."""
    return {
        re.sub(r"^(backbone\..*)\bpoints\.", r"\1conv_offset.", name): value
        for name, value in weights.items()
    }


def check_finite(weights: dict[str, torch.Tensor], path: str | os.PathLike) -> None:
    """Refuse weights that no network can compute with.

    Raises:
        UserError: names the first value that is no tensor, or has a NaN or an infinity.
    """
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{path} holds a {type(value).__name__} as {name!r} among its weights; expected "
                "names and tensors"
            )
        if not torch.isfinite(value).all():
            raise UserError(
                f"{path} holds weights that are not finite, the first: {name}. It is corrupt, or "
                f"of a run that diverged; use the run's other checkpoint ({LAST}, {BEST}) or a copy"
            )


@reader("a file of torch.save with tensors and plain values")
def read_torch_file(path: str | os.PathLike) -> Any:
    """Tensors and plain values of a file that torch.save wrote, on the CPU; no code is run.

    Raises:
        UserError: missing, unreadable, truncated or corrupt, or it holds anything else.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:  # torch itself does not look at the checksums
                if (damaged := file.testzip()) is not None:
                    raise RuntimeError(f"the checksum of {damaged} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except _BROKEN as error:
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} holds a {refused[1]}, and to load that would run code of the file. If "
                "you trust it, save the tensors alone in its own program: values = "
                "torch.load(PATH, weights_only=False); torch.save(values['model'], 'weights.pth'), "
                "or whichever key has the state dict (of a whole network: values.state_dict())"
            ) from None
        reason = str(error).strip().partition(".")[0].partition("\n")[0] or type(error).__name__
        if isinstance(error, KeyError):  # of the unpickler, with the code it does not know
            reason = "not a torch file"
        raise UserError(
            f"{path} cannot be read as a checkpoint ({reason}). It is truncated, corrupt or of "
            f"another program; use the run's other checkpoint ({LAST}, {BEST}) or a copy."
        ) from None


def differing_keys(saved: Config, wanted: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    old, new = _flatten(saved.model_dump()), _flatten(wanted.model_dump())
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}


def check_same_config(saved: Config, wanted: Config, path: Path, allowed: set[str]) -> None:
    """Refuse a checkpoint whose configuration differs in more than `allowed` keys or sections.

    Raises:
        UserError: names every such key with its value there and the one asked for.
    """
    conflicts = [
        f"  {key}: {old!r} there, {new!r} asked for"
        for key, (old, new) in differing_keys(saved, wanted).items()
        if key not in allowed and key.partition(".")[0] not in allowed
    ]
    if conflicts:
        raise UserError(
            f"{path} was made with another configuration:\n"
            + "\n".join(conflicts)
            + "\nLeave these keys as they were, or start a new run for the new values."
        )


def load_weights(model: nn.Module, state: dict[str, Any], path: str | os.PathLike) -> None:
    """Load a state dict strictly.

    Raises:
        UserError: names or shapes that do not fit; the first ones are listed.
    """
    with reading(path, "the weights of its configuration"):
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            lines = str(error).splitlines()
            shown = "\n".join(lines[:6] + (["\t..."] if len(lines) > 6 else []))
            raise UserError(
                f"the weights in {path} do not fit its configuration:\n{shown}"
            ) from None


def saved_config(state: dict[str, Any], path: str | os.PathLike) -> Config:
    """The configuration that a checkpoint was made with, validated."""
    return parse_config(state["config"], f"the configuration in {path}")


class SaveSchedule:
    """When the next checkpoint is due: after some minutes or steps (None: not by these)."""

    def __init__(self, minutes: float | None, steps: int | None):
        self.minutes, self.steps = minutes, steps
        self.restart()

    def restart(self) -> None:
        """A checkpoint was written, or asked for."""
        self._since, self._done = time.monotonic(), 0

    def count(self) -> None:
        """A step is done."""
        self._done += 1

    def due(self) -> bool:
        """Whether it is time, with the steps counted so far."""
        late = self.minutes is not None and time.monotonic() - self._since >= 60 * self.minutes
        return late or (self.steps is not None and self._done >= self.steps)


def rng_state() -> dict[str, torch.Tensor | None]:
    """torch's random states. (The loader seeds each sample by itself.)"""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, torch.Tensor | None]) -> None:
    """Restore what `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
