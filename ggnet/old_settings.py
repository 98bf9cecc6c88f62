"""Settings of version 0.1 in today's form, for saved runs and users' files; to go with the next."""

from collections.abc import Container
from typing import Any

RENAMED = {  # (section, old key) -> new key
    ("model", "actpoints"): "points_per_step",
    ("eval", "points"): "recall_points",
}
OFF = {  # (section, key) -> the value that meant off, today null
    ("train", "init"): "",
    ("train", "clip"): 0,
    ("train", "ema"): 0,
    ("train", "checkpoint_steps"): 0,
    ("train", "eval_every"): 0,
}


def modernize(values: dict[str, Any], keep: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Nested settings in today's form, and a note for each that was not.

    Args:
        keep: sections that exist; `scenes` is left out where it does not.

    Raises:
        ValueError: a setting under its old and its new name.
    """
    values = {name: dict(v) if isinstance(v, dict) else v for name, v in values.items()}
    sections = {name: v for name, v in values.items() if isinstance(v, dict)}
    notes = []
    for (section, old), new in RENAMED.items():
        mine = sections.get(section, {})
        if old not in mine:
            continue
        if new in mine:
            raise ValueError(f"{section}.{old} is now {section}.{new}; give one of them")
        mine[new] = mine.pop(old)
        notes.append(f"{section}.{old} is now {section}.{new}")
    for (section, key), off in OFF.items():
        mine = sections.get(section, {})
        if key in mine and mine[key] == off and not isinstance(mine[key], bool):
            mine[key] = None
            notes.append(f"{section}.{key}={off or repr(off)} is now null")
    train = sections.get("train", {})
    if train.get("checkpoint_minutes") == 0:  # meant: after each step
        train |= {"checkpoint_minutes": None, "checkpoint_steps": 1}
        notes.append("train.checkpoint_minutes=0 is now train.checkpoint_steps=1")
    if isinstance(board := train.get("tensorboard"), bool):
        if "loggers" in train:
            raise ValueError("train.tensorboard is now in train.loggers; give one of them")
        del train["tensorboard"]
        train["loggers"] = ["tensorboard"] if board else []
        notes.append(
            f"train.tensorboard={str(board).lower()} is now train.loggers={train['loggers']}"
        )
    if "scenes" in values and "scenes" not in keep:
        del values["scenes"]
        notes.append("scenes belongs to `ggnet demo` and is not used")
    return values, notes
