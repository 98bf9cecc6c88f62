"""`ggnet ablate`: a table's rows with several seeds, from the plan to the results."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table as Screen

from ggnet.ablate import report
from ggnet.ablate.execute import check_folders, default_jobs, execute, probe
from ggnet.ablate.rows import base_config, find_rows, find_table
from ggnet.ablate.study import RESULT, Job, Study, merge, read_result
from ggnet.ablate.take import take_results
from ggnet.config import Config
from ggnet.data.scenes import generate
from ggnet.engine.device import choose_device
from ggnet.engine.lock import hold_run
from ggnet.engine.signals import Interrupted, StopRequest
from ggnet.errors import UserError
from ggnet.progress import progress

SCENES, TRAIN, TEST = "data/scenes-1500", 2000, 1500  # the bundled dataset of a study


@dataclass(frozen=True)
class Wish:
    """What the user asks for; see `ggnet ablate --help`."""

    table: str
    rows: Sequence[str] | None = None
    seeds: int = 5
    jobs: int | None = None
    data: str = "scenes"
    root: str | None = None
    config: str | None = None
    flavour: str | None = None
    out: Path = Path("runs/ablate")
    detections: Path | None = None  # another detector's boxes
    take: Sequence[Path] = ()  # TABLE.json of other studies, whose runs are taken as done
    overrides: Sequence[str] = field(default_factory=list)


def ablate(wish: Wish, *, dry: bool = False, console: Console | None = None) -> None:
    """Run what is not done yet and write the table's results; with `dry` say what that would be.

    The seeds are interleaved, so that after each of them the table is whole.

    Raises:
        UserError: an unknown table, row or setting; a folder or dataset that does not fit; runs
            that have failed, after the others have ended.
        Interrupted: stopped; the same call goes on.
    """
    console = console or Console()
    table = find_table(wish.table)
    rows = find_rows(wish.table, wish.rows)
    for name, value in (("--seeds", wish.seeds), ("--jobs", wish.jobs)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
    boxes = [name for name, row in rows.items() if row.other_boxes]
    if boxes and not wish.detections:
        if wish.rows:
            raise UserError(
                f"{', '.join(boxes)} of {wish.table}: scored with another detector's boxes; give "
                "them with --detections FILE"
            )
        console.print(f"without {', '.join(boxes)}: they need --detections FILE", highlight=False)
        rows = {name: row for name, row in rows.items() if not row.other_boxes}
    if wish.detections and not boxes:
        raise UserError(f"--detections: no row of {wish.table} asked for is about them")
    base = _budget(wish)
    _make_scenes(wish, base, console)
    study = Study(wish.out, base, wish.detections)
    for path in wish.take:
        take_results(path, study)
    configs = {
        name: study.config(wish.table, row, wish.data, wish.flavour)
        for name, row in table.rows.items()
        if wish.detections or not row.other_boxes
    }
    jobs = merge(
        study.job(configs[name], base.train.seed + number, other_boxes=row.other_boxes).named(
            f"{wish.table}/{name}"
        )
        for number in range(wish.seeds)
        for name, row in rows.items()
    )
    check_folders(jobs)
    count = wish.jobs or default_jobs(base.train.device)
    seconds = _plan(study, configs, jobs, count, console)
    if dry:
        return
    with hold_run(study.folder):
        study.open()
        _run(study, wish, configs, jobs, count, seconds, console)


def _budget(wish: Wish) -> Config:
    """The settings that all rows have in common. One evaluation, at the end."""
    settings = ["train.eval_every=null"]
    root = wish.root or (SCENES if wish.data == "scenes" and not wish.config else None)
    if root:
        settings.append(f"data.root={root}")
    settings += wish.overrides
    base = base_config(wish.table, wish.data, wish.flavour, settings, wish.config)
    given = any(item.startswith("data.workers=") for item in wish.overrides)
    if not given and choose_device(base.train.device).type == "cpu":  # one process a run
        base.data.workers = 0
    return base


def _make_scenes(wish: Wish, base: Config, console: Console) -> None:
    if base.data.root == SCENES and wish.root is None:
        with progress("generating scenes", console) as told:
            generate(SCENES, train=TRAIN, test=TEST, progress=told)


def _plan(
    study: Study, configs: dict[str, Config], jobs: list[Job], count: int, console: Console
) -> dict[str, float]:
    """Show the runs with their time and memory; setting -> seconds of a run."""
    left = [job for job in jobs if not study.is_done(job)]
    measured: dict[str, tuple[float, float]] = {}
    trained = study.trained()
    shown = Screen(title=f"{len(jobs)} runs, {len(jobs) - len(left)} of them done")
    for name in ("row", "settings that differ", "runs", "done", "minutes each", "GiB"):
        shown.add_column(name, justify="left" if "row" in name or "set" in name else "right")
    with progress("measuring a few steps of each row", console) as told:
        settings = list(dict.fromkeys(job.setting for job in jobs))
        for number, setting in enumerate(settings):
            mine = [job for job in jobs if job.setting == setting]
            measured[setting] = _needs(study, mine, trained)
            trained |= {(job.training, job.seed) for job in mine if not study.is_done(job)}
            told(number + 1, len(settings))
            done = sum(study.is_done(job) for job in mine)
            minutes, memory = measured[setting][0] / 60, measured[setting][1] / 2**30
            names = ", ".join(name.partition("/")[2] for name in mine[0].names)
            figures = (str(len(mine)), str(done), f"{minutes:.1f}", f"{memory:.1f}")
            differing = _differing(study.base, mine[0].config)
            if mine[0].boxes:
                differing += ", other boxes"
            shown.add_row(names, differing, *figures)
    console.print(shown)
    seconds = {setting: figures[0] for setting, figures in measured.items()}
    total = sum(seconds[job.setting] for job in left)
    console.print(
        f"{len(left)} runs to do, {count} at a time: about {_duration(total / count)}",
        highlight=False,
    )
    return seconds


def _needs(study: Study, jobs: list[Job], trained: set[tuple[str, int]]) -> tuple[float, float]:
    """Seconds and bytes of a run: as those that are done needed, else from a trial.

    Args:
        jobs: of one setting.
        trained: `Job.training` and seed of the weights that are there by then; a run takes them.
    """
    if found := study.results(jobs[0].setting):
        return (
            sum(run["seconds"] for run in found.values()) / len(found),
            max(run["memory"] for run in found.values()),
        )
    needs = probe(jobs[0].config)
    share = sum((job.training, job.seed) not in trained for job in jobs) / len(jobs)
    return share * needs["training"] + needs["evaluation"], needs["memory"]


def _run(
    study: Study,
    wish: Wish,
    configs: dict[str, Config],
    jobs: list[Job],
    count: int,
    seconds: dict[str, float],
    console: Console,
) -> None:
    left = [job for job in jobs if not study.is_done(job)]
    took = {"expected": 0.0, "really": 0.0}  # seconds of the runs since the start
    command = f"ggnet {shlex.join(sys.argv[1:])}" if len(sys.argv) > 1 else "ggnet ablate"

    def write() -> None:
        found = report.collect(study, wish.table, find_table(wish.table), configs)
        report.write(study, found, command)

    def done(job: Job) -> None:
        left.remove(job)
        write()
        result = read_result(job.folder / RESULT)
        took["expected"] += seconds[job.setting]
        took["really"] += result["seconds"]
        remaining = sum(seconds[other.setting] for other in left) / count
        remaining *= took["really"] / took["expected"]
        console.print(
            f"{job}: mAP {result['metrics']['mAP']:.2f} in {result['seconds'] / 60:.1f} min; "
            f"{len(jobs) - len(left)} of {len(jobs)}, about {_duration(remaining)} left",
            soft_wrap=True,
            highlight=False,
        )

    write()
    stop = StopRequest()
    with stop:
        failed = execute(list(left), count, stop, done)
    if stop.requested and left:
        raise Interrupted
    console.print(f"Results in {study.folder / wish.table}.md, .json and .png", highlight=False)
    if failed:
        lines = "\n".join(f"  {name}: {said}" for name, said in failed.items())
        raise UserError(f"{len(failed)} of {len(jobs)} runs have failed:\n{lines}")


def _differing(base: Config, config: Config) -> str:
    """The settings in which a row differs from the budget."""
    old, new = base.model_dump(mode="json"), config.model_dump(mode="json")
    return ", ".join(
        f"{key}={value}"
        for section, keys in new.items()
        for key, value in keys.items()
        if old[section][key] != value and (section, key) != ("train", "seed")
    )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
