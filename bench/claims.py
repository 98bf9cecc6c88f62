"""The paper's claims beside what its tables come to here: the table of docs/paper.md.

    python -m bench.claims              print it
    python -m bench.claims --publish    and write it into docs/paper.md

From docs/tables/TABLE.json, which `ggnet ablate` wrote, as far as the tables are there.
"""

import argparse
import json

from bench.publish import ROOT, replace_between
from ggnet.ablate.rows import find_table

PAGE, RESULTS = ROOT / "docs/paper.md", ROOT / "docs/tables"
BEGIN = "<!-- python -m bench.claims --publish: begin -->"
DATASETS = ("V-COCO", "HICO-DET")
# The claim, and what it compares: a table's row, and the row beside it.
CLAIMS = [
    ("HNA helps the baseline", "table1", "hna", "baseline"),
    ("HNA helps the full network", "table1", "ggnet", "without-hna"),
    ("the first gaze step helps", "table1", "hna+gaze1", "hna"),
    ("the second gaze step helps", "table1", "hna+gaze2", "hna+gaze1"),
    ("APM helps", "table1", "ggnet", "hna+gaze2"),
    ("25 points are better than 9", "table2", "points9", "points25"),
    ("49 points are not better", "table2", "points49", "points25"),
    ("a third step does not help", "table2", "steps3", "steps2"),
    ("each step needs features of its own", "table2", "shared", "steps2"),
    (
        "the human's and object's points help",
        *("table3", "interaction+human+object", "interaction"),
    ),
    ("ActPoints help", "table3", "actpoints", "interaction"),
    ("ActPoints by glance and gaze help", "table3", "gaze", "interaction"),
    (
        "glance and gaze are better than the human's and object's points",
        *("table3", "gaze", "interaction+human+object"),
    ),
    ("glance and gaze are what makes ActPoints good", "table3", "gaze", "actpoints"),
    ("beta = 7 is better than 5", "table6", "beta5", "beta7"),
    ("beta = 7 is better than 6", "table6", "beta6", "beta7"),
    ("beta = 7 is better than 8", "table6", "beta8", "beta7"),
    ("lambda_1 = 0.1 is better than 0.5", "table7", "lambda0.5", "lambda0.1"),
    ("lambda_1 = 0.1 is better than 1.0", "table7", "lambda1.0", "lambda0.1"),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--publish", action="store_true", help=f"write it into {PAGE.name}")
    options = parser.parse_args()
    table = markdown()
    print(table)
    if options.publish:
        replace_between(PAGE, BEGIN, f"\n{table}\n")
    return 0


def markdown() -> str:
    """The table."""
    lines = [
        ("claim", "rows", *DATASETS, "here", "95 % interval"),
        ("---", "---", *["---:"] * 4),
    ]
    for claim, table, row, against in CLAIMS:
        there = _paper(table, row, against)
        figures = (f"{there[name]:+.2f}" if name in there else "" for name in DATASETS)
        lines.append(
            (claim, f"`{table}`: {row} - {against}", *figures, *_here(table, row, against))
        )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _paper(table: str, row: str, against: str) -> dict[str, float]:
    mine, other = (find_table(table).rows[name].paper for name in (row, against))
    return {name: mine[name] - other[name] for name in mine.keys() & other.keys()}


def _here(table: str, row: str, against: str) -> tuple[str, str]:
    """The mean difference and its interval, as far as there is one; bold where it can be told."""
    path = RESULTS / f"{table}.json"
    if not path.exists():
        return "", ""
    found = json.loads(path.read_text(encoding="utf-8"))["comparisons"]
    it = next((x for x in found if (x["row"], x["against"]) == (row, against)), None)
    if it is None or it["low"] is None:  # not run, or with one seed
        return "", ""
    mean = f"{it['mean']:+.2f}"
    told = it["here"] in ("higher", "lower")
    return f"**{mean}**" if told else mean, f"{it['low']:+.2f} to {it['high']:+.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
