"""Rows and tables, and the configuration that a row of a table means."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ggnet.config import Config, load_config
from ggnet.errors import UserError

DATA = ("scenes", "vcoco", "hico")


@dataclass(frozen=True)
class Row:
    """One row: its settings, the paper's figures by dataset, the rows that it is compared with."""

    settings: dict[str, Any]
    paper: dict[str, float] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    other_boxes: bool = False  # scored with another detector's boxes


@dataclass(frozen=True)
class Table:
    """A table: what it is about, the preset for each dataset that it can be run on (the paper's
    first), its rows."""

    about: str
    presets: dict[str, str]
    rows: dict[str, Row]

    @property
    def keys(self) -> set[str]:
        """The settings that each of its rows fixes."""
        return set.intersection(*(set(row.settings) for row in self.rows.values()))

    @property
    def columns(self) -> list[str]:
        """The names of the paper's figures."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row.paper))


def find_table(name: str) -> Table:
    """The table of that name.

    Raises:
        UserError: there is none; names the nearest one.
    """
    from ggnet.ablate.tables import TABLES

    return _find(name, TABLES, "table", "")


def find_rows(name: str, wanted: Iterable[str] | None = None) -> dict[str, Row]:
    """Rows of the table `name`, in its order; None: all.

    Raises:
        UserError: no such table or row.
    """
    rows = find_table(name).rows
    if wanted is None:
        return dict(rows)
    chosen = {key: _find(key, rows, "row", f" in {name}") for key in wanted}
    return {key: rows[key] for key in rows if key in chosen}


def split_name(text: str) -> tuple[str, str]:
    """ "table1/ggnet" -> its table and row.

    Raises:
        UserError: it is not of that form, or there is no such table or row.
    """
    table, slash, row = text.partition("/")
    if not slash:
        rows = ", ".join(f"{table}/{name}" for name in find_table(table).rows)
        raise UserError(f"'{text}' is a table; expected one of its rows: {rows}")
    find_rows(table, [row])
    return table, row


def preset(table: str, data: str | None) -> tuple[str, str]:
    """The dataset's name (None: the first of the table's benchmarks) and its preset.

    Raises:
        UserError: the table is not about that dataset.
    """
    presets = find_table(table).presets
    name = data or next(name for name in presets if name != "scenes")
    if name not in presets:
        raise UserError(f"{table} has no preset for '{name}'; expected one of {', '.join(presets)}")
    return name, presets[name]


def as_overrides(settings: dict[str, Any]) -> list[str]:
    """Settings as `load_config` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def base_config(
    table: str, data: str, flavour: str | None, overrides: Sequence[str], config: str | None = None
) -> Config:
    """What all rows of a table have in common, before a row's own settings.

    Args:
        config: a preset or file in place of the table's own preset.

    Raises:
        UserError: see `load_config`; an override of what the table's rows fix.
    """
    fixed = find_table(table).keys
    for item in overrides:
        key = item.partition("=")[0].strip()
        if key in fixed:
            raise UserError(
                f"{key} is what the rows of {table} fix; it cannot be set for all of them. "
                "`ggnet train --row` takes it for one"
            )
    settings = _flavour(flavour, data)
    return load_config(config or preset(table, data)[1], [*as_overrides(settings), *overrides])


def row_overrides(name: str, data: str, flavour: str | None) -> list[str]:
    """The settings of "TABLE/ROW" over its preset, the flavour's included."""
    table, row = split_name(name)
    settings = settings_over(table, find_table(table).rows[row], data, flavour)
    return as_overrides(_flavour(flavour, data) | settings)


def settings_over(table: str, row: Row, data: str, flavour: str | None) -> dict[str, Any]:
    """The settings of a row over what all rows of its table have in common."""
    return row.settings | _flavour(flavour, data, table)


def _flavour(name: str | None, data: str, table: str | None = None) -> dict[str, Any]:
    from ggnet.ablate.flavours import FLAVOURS, flavour_settings

    if name is None:
        return {}
    _find(name, FLAVOURS, "flavour", "")
    return flavour_settings(name, data, table)


def _find(name: str, known: Iterable[str], what: str, where: str) -> Any:
    if name in known:
        return known[name] if isinstance(known, dict) else name
    match = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean '{match[0]}'?" if match else "."
    raise UserError(f"no {what} '{name}'{where}{hint} There are: {', '.join(known)}")
