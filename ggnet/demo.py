"""`ggnet demo`: the whole way from nothing to pictures of a trained GGNet."""

import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from ggnet.config import Config, DemoConfig, load_config
from ggnet.data.annotations import load_dataset, read_json
from ggnet.data.images import read_image
from ggnet.data.scenes import generate
from ggnet.engine.checkpoint import LAST, check_same_config, open_checkpoint
from ggnet.engine.evaluation import evaluate_checkpoint
from ggnet.engine.inference import Predictor
from ggnet.engine.plots import plot_report, plot_training
from ggnet.engine.trainer import train
from ggnet.errors import UserError, reading
from ggnet.eval.report import Report
from ggnet.viz.defaults import THRESHOLD
from ggnet.viz.draw import draw_comparison, draw_grid
from ggnet.viz.style import save_picture

PICTURES, ON_PAGE = 24, 4  # scenes drawn one by one, and together on one page


def demo(
    run: Path, overrides: list[str], config: str = "demo", console: Console | None = None
) -> Report | None:
    """Generate the bundled dataset, train, evaluate and draw, with the preset `demo`.

    What is there already is used: the dataset, an interrupted run, a finished one.

    Returns:
        The metrics on the test split.

    Raises:
        UserError: the run folder holds a run with other settings, or any problem of `train`.
        Interrupted: Ctrl-C; calling it again goes on.
    """
    console = console or Console()
    started = time.monotonic()
    settings = load_config(config, overrides, DemoConfig)
    root = settings.data.root
    _check_scenes(settings, run)
    _generate(settings, console)
    report = _train(settings.of_training(), run, console)
    examples = draw_examples(run, root)
    plot_training(run)
    plot_report(report, run)
    console.print(report.result.table())
    pictures = min(PICTURES, settings.scenes.test)
    on_page = min(ON_PAGE, pictures)
    minutes = (time.monotonic() - started) / 60
    console.print(
        f"Done in {minutes:.1f} minutes. In {run}:\n"
        f"  {examples.name:<20} ground truth, prediction and ActPoints of {on_page} test images\n"
        f"  {'pictures/':<20} the same for {pictures} images, one by one\n"
        f"  {'curves.png':<20} losses and AP over the epochs\n"
        f"  {'ap_per_hoi.png':<20} AP of each HOI against its number of training instances\n"
        f"  {'f1.png':<20} which score a triplet should have; the pictures use the best\n"
        f"  {'metrics.json':<20} every figure; results.csv: every epoch",
        highlight=False,
        soft_wrap=True,
    )
    return report


def draw_examples(run: Path, root: str) -> Path:
    """Draw test images of the dataset `root`, evenly spaced, none chosen for its result.

    The weights are those of the last epoch: the best one is chosen by the test images themselves.

    Writes `pictures/NAME.png` and a page of the first ones with two pairs or more,
    `examples.png`, whose path is returned.
    """
    dataset = load_dataset(root)
    records = dataset.load("test")
    chosen = np.linspace(0, len(records) - 1, min(PICTURES, len(records))).astype(int)
    checkpoint = open_checkpoint(run / LAST)
    predictor = Predictor.of(checkpoint, torch.device("cpu"))
    threshold = THRESHOLD if checkpoint.threshold is None else checkpoint.threshold
    scenes = []
    for record in (records[index] for index in chosen):
        image = read_image(record.path)
        [(prediction, gaze)] = predictor.look(*predictor.prepare([image], [record.file_name]))
        scenes.append((image, record, prediction, gaze))
        picture = draw_comparison(
            image, record, prediction, gaze, dataset.vocabulary, threshold=threshold
        )
        save_picture(run / "pictures" / f"{record.path.stem}.png", picture)
    page = run / "examples.png"
    several = [scene for scene in scenes if len(scene[1].pairs) > 1] or scenes
    drawn = draw_grid(several[:ON_PAGE], dataset.vocabulary, threshold=threshold)
    save_picture(page, drawn)
    return page


def _check_scenes(config: DemoConfig, run: Path) -> None:
    """A run goes on with the scenes that it was begun with."""
    path = Path(config.data.root) / "dataset.json"
    if not (run / LAST).exists() or not path.exists():
        return
    with reading(path, "the dataset.json of generated scenes"):
        made = dict(read_json(path).get("recipe", {}))
    conflicts = [
        f"  scenes.{key}: {made[key]!r} in {path}, {value!r} asked for"
        for key, value in config.scenes.model_dump().items()
        if made.get(key, value) != value
    ]
    if conflicts:
        raise UserError(
            f"{run} was trained on other scenes:\n"
            + "\n".join(conflicts)
            + "\nLeave these keys as they were, or start a new run for the new values."
        )


def _generate(config: DemoConfig, console: Console) -> None:
    scenes = config.scenes
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("generating scenes")
        generate(
            config.data.root,
            train=scenes.train,
            test=scenes.test,
            size=scenes.size,
            seed=scenes.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    text = f"{scenes.train} training and {scenes.test} test images in {config.data.root}"
    console.print(text, highlight=False)


def _train(config: Config, run: Path, console: Console) -> Report | None:
    last = run / LAST
    if not last.exists():
        return train(config, run, console=console)
    checkpoint = open_checkpoint(last)
    check_same_config(checkpoint.config, config, last, set())
    if checkpoint.state["progress"]["epoch"] >= config.train.epochs:
        console.print(f"{run} is trained already; delete it to start anew", highlight=False)
        return evaluate_checkpoint(checkpoint, [])
    return train(config, run, resume=checkpoint.state, console=console)
