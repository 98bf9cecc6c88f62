"""What a table has come to so far: TABLE.json, TABLE.md and TABLE.png in the study's folder."""

import json
import math
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

from ggnet.ablate.rows import Row, Table
from ggnet.ablate.statistics import CONFIDENCE, Difference, Spread, paired_difference, spread
from ggnet.ablate.study import Study
from ggnet.config import Config
from ggnet.engine.checkpoint import differing_keys
from ggnet.eval.errors import CAUSES
from ggnet.io import atomic_write
from ggnet.viz.ablation import plot_table


@dataclass(frozen=True)
class RowResult:
    """One row: its runs (seed -> result.json), and what they come to."""

    name: str
    row: Row
    settings: dict[str, Any]  # over the study's budget
    runs: dict[int, dict[str, Any]]

    @property
    def scores(self) -> dict[int, float]:
        """Seed -> mAP."""
        return {seed: run["metrics"]["mAP"] for seed, run in sorted(self.runs.items())}

    @property
    def spread(self) -> Spread:
        return spread(list(self.scores.values()))

    def errors(self, cause: str) -> dict[int, int]:
        """Seed -> number of detections with that cause."""
        return {seed: run["errors"][cause] for seed, run in sorted(self.runs.items())}

    def mean_errors(self) -> dict[str, float]:
        """Cause -> mean count."""
        return {cause: spread(list(self.errors(cause).values())).mean for cause in CAUSES}


@dataclass(frozen=True)
class Comparison:
    """A row beside one that it is compared with."""

    row: str
    against: str
    here: Difference
    errors: dict[str, Difference]  # cause -> of the counts
    paper: dict[str, float]  # the same difference as `here`


@dataclass(frozen=True)
class TableResult:
    """A table as far as it is done."""

    name: str
    table: Table
    rows: list[RowResult]

    @property
    def comparisons(self) -> list[Comparison]:
        found = {row.name: row for row in self.rows}
        return [
            Comparison(
                row.name,
                other,
                paired_difference(row.scores, found[other].scores),
                {
                    cause: paired_difference(row.errors(cause), found[other].errors(cause))
                    for cause in CAUSES
                },
                {
                    name: row.row.paper[name] - found[other].row.paper[name]
                    for name in self.table.columns
                    if name in row.row.paper and name in found[other].row.paper
                },
            )
            for row in self.rows
            for other in row.row.against
            if other in found and row.scores.keys() & found[other].scores.keys()
        ]


def collect(study: Study, name: str, table: Table, configs: dict[str, Config]) -> TableResult:
    """The results of a table's rows (`configs`) that are there, of all seeds that are."""
    rows = []
    for key, config in configs.items():
        setting = study.setting(config, other_boxes=table.rows[key].other_boxes)
        if runs := study.results(setting):
            row = table.rows[key]
            rows.append(RowResult(key, row, _settings(row, config, study.base), runs))
    return TableResult(name, table, rows)


def _settings(row: Row, config: Config, base: Config) -> dict[str, Any]:
    """What a row states and what else differs from the budget: a flavour goes before the row."""
    values = {key: attrgetter(key)(config) for key in row.settings}
    return values | {key: new for key, (_, new) in differing_keys(base, config).items()}


def write(study: Study, result: TableResult, command: str) -> None:
    """Write the three files.

    Raises:
        UserError: a file cannot be written.
    """
    if not result.rows:
        return
    with atomic_write(study.folder / f"{result.name}.json", "w") as file:
        file.write(json.dumps(_to_dict(study, result, command), indent=1) + "\n")
    with atomic_write(study.folder / f"{result.name}.md", "w") as file:
        file.write(markdown(study, result, command))
    plot_table(result, study.folder / f"{result.name}.png")


def markdown(study: Study, result: TableResult, command: str) -> str:
    """The table, the causes of errors, and the paired differences of both, as Markdown."""
    columns = result.table.columns
    parts = [
        f"# {result.name}: {result.table.about}",
        f"{_conditions(study, result)} Written by `{command}`.",
        _markdown_table(
            ["row", "seeds", "mAP", "± (seeds)", *(f"paper, {name}" for name in columns)],
            [
                [
                    row.name,
                    str(row.spread.count),
                    _number(row.spread.mean),
                    _number(row.spread.deviation),
                    *(_number(row.row.paper.get(name)) for name in columns),
                ]
                for row in result.rows
            ],
        ),
    ]
    if result.comparisons:
        parts += [
            f"Paired differences at equal seeds, with {100 * CONFIDENCE:.0f} % confidence "
            "intervals (Student's t), each for itself:",
            _markdown_table(
                [
                    *("row", "against", "seeds", "difference", "interval", "p", "here"),
                    *(f"paper, {name}" for name in columns),
                ],
                [
                    [
                        comparison.row,
                        comparison.against,
                        str(comparison.here.count),
                        _number(comparison.here.mean, "+"),
                        _interval(comparison.here),
                        _number(comparison.here.p, ".3"),
                        comparison.here.verdict,
                        *(_number(comparison.paper.get(name), "+") for name in columns),
                    ]
                    for comparison in result.comparisons
                ],
            ),
        ]
    parts += [
        "Mean number of detections by cause (`ggnet eval`), of as many as there are pairs:",
        _markdown_table(
            ["row", *CAUSES],
            [
                [row.name, *(f"{count:.0f}" for count in row.mean_errors().values())]
                for row in result.rows
            ],
        ),
    ]
    if result.comparisons:
        parts += [
            "Paired differences of these counts, with intervals as above; bold without zero:",
            _markdown_table(
                ["row", "against", *CAUSES],
                [
                    [
                        comparison.row,
                        comparison.against,
                        *(_count(difference) for difference in comparison.errors.values()),
                    ]
                    for comparison in result.comparisons
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _conditions(study: Study, result: TableResult) -> str:
    runs = [run for row in result.rows for run in row.runs.values()]
    hours = sum(run["seconds"] for run in runs) / 3600
    train = study.base.train
    where = ", ".join(sorted({run["machine"] for run in runs}))
    boxes = ""
    if names := [row.name for row in result.rows if row.row.other_boxes]:
        boxes = (
            f" {', '.join(names)}: scored with the boxes of {study.boxes.path.name} "
            f"(SHA-256 {study.boxes.sha256[:12]})."
        )
    return (
        f"{study.dataset.vocabulary.name}: mAP of the last epoch in percent on {runs[0]['images']} "
        f"test images; {train.epochs} epochs where a row says no other number, batch "
        f"{train.batch_size}, {study.base.model.backbone}. Trained {hours:.1f} hours on {where}."
        f"{boxes}"
    )


def _to_dict(study: Study, result: TableResult, command: str) -> dict[str, Any]:
    return {
        "table": result.name,
        "about": result.table.about,
        "command": command,
        "dataset": {"name": study.dataset.vocabulary.name, "sha256": study.data},
        "boxes": study.boxes and {"name": study.boxes.path.name, "sha256": study.boxes.sha256},
        "budget": study.base.model_dump(mode="json"),
        "rows": {
            row.name: {
                "settings": row.settings,
                "other_boxes": row.row.other_boxes,
                "paper": row.row.paper,
                "mean": row.spread.mean,
                "deviation": _plain(row.spread.deviation),
                "runs": {str(seed): run for seed, run in sorted(row.runs.items())},
            }
            for row in result.rows
        },
        "confidence": CONFIDENCE,
        "comparisons": [
            {
                "row": comparison.row,
                "against": comparison.against,
                **_difference(comparison.here),
                "errors": {cause: _difference(it) for cause, it in comparison.errors.items()},
                "paper": comparison.paper,
            }
            for comparison in result.comparisons
        ],
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {key: _plain(value) for key, value in asdict(difference).items()} | {
        "here": difference.verdict
    }


def _markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(difference: Difference) -> str:
    if math.isinf(difference.low):
        return "-"
    return f"{difference.low:+.2f} to {difference.high:+.2f}"


def _count(difference: Difference) -> str:
    mean = f"{round(difference.mean):+}"  # no -0
    if difference.verdict != "cannot tell":
        mean = f"**{mean}**"
    half = difference.high - difference.mean
    return mean if math.isinf(half) else f"{mean} ± {half:.0f}"


def _number(value: float | None, style: str = "") -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:{style if '.' in style else style + '.2'}f}"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
