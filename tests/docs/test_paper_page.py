"""docs/paper.md says what the tables and flavours are, and its commands are understood."""

import re
import shlex
import subprocess
import sys

import pytest
from pages import ROOT, commands

from bench import claims
from ggnet.ablate.flavours import DIFFERENCES
from ggnet.ablate.rows import DATA, as_overrides, find_rows, row_overrides
from ggnet.ablate.tables import TABLES
from ggnet.cli import build_parser

PAGE = "docs/paper.md"
PROGRAMS = ("ggnet", "python -m")
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")


def rows_of(header):
    """The cells of the table with this header."""
    _, _, rest = TEXT.partition(f"| {' | '.join(header)} |\n")
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_differences_are_those_of_the_flavours():
    shown = rows_of(["what", "paper", "original", "for", "source"])
    assert shown == [
        [
            each.what,
            ", ".join(f"`{item}`" for item in as_overrides(each.paper)),
            ", ".join(f"`{item}`" for item in as_overrides(each.original)),
            "all" if each.data == DATA else ", ".join(each.data),
            each.source.replace("|", "\\|"),
        ]
        for each in DIFFERENCES
    ]


def test_the_rows_are_those_of_the_tables():
    shown = {name.strip("`"): text for name, text in rows_of(["table", "rows"])}
    assert shown.keys() == TABLES.keys()
    for name, text in shown.items():
        if name != "hna":
            rows = re.sub(r"\(.*?\)", "", text).split(",")
            assert [row.strip() for row in rows] == list(TABLES[name].rows)


def test_the_claims_are_those_of_the_tables():
    for claim, table, row, other in claims.CLAIMS:
        assert other in TABLES[table].rows[row].against, claim
    assert f"{claims.BEGIN}\n\n{claims.markdown()}\n" in TEXT
    assert "| `table1`: hna - baseline | +1.45 | +0.42 | **-2.70** | -3.48 to -1.91 |" in TEXT
    assert "| `table7`: lambda0.5 - lambda0.1 | -0.71 |  |" in TEXT  # on one dataset


LINES = {program: [x for x in commands(PAGE) if x.startswith(program)] for program in PROGRAMS}


def test_commands_are_of_these_programs():
    assert sorted(sum(LINES.values(), [])) == sorted(commands(PAGE))


@pytest.mark.parametrize("line", LINES["python -m"])
def test_a_script_has_these_options(line):
    _, _, module, *arguments = shlex.split(line)
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    options = [word for word in arguments if word.startswith("--")]
    for word in options or arguments:
        assert word in shown.stdout


@pytest.mark.parametrize("line", LINES["ggnet"])
def test_a_command_is_understood(line):
    _, *arguments = shlex.split(line)
    parsed, settings = build_parser().parse_known_args(arguments)
    assert all(re.fullmatch(r"\w+\.\w+=.*", item) for item in settings)
    if getattr(parsed, "row", None):
        assert row_overrides(parsed.row, parsed.data, parsed.flavour)
    if getattr(parsed, "table", None):
        assert find_rows(parsed.table, parsed.rows.split(",") if parsed.rows else None)
