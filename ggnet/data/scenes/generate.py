"""Writing the dataset folder: plan, place, draw, annotate."""

import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ggnet.cores import usable_cores
from ggnet.data.scenes.layout import (
    APART,
    CROSSING,
    SAME_OBJECT,
    SAME_PERSON,
    SIZE,
    Scene,
    can_cross,
    sample_scene,
)
from ggnet.data.scenes.recipe import HOIS, KNEEL, LEG_BACK, NAME, OBJECTS, VERBS, Action, deck
from ggnet.data.scenes.render import render
from ggnet.errors import UserError

SPLITS = ("train", "test")
_CONTENT = {"dataset.json", "images", *(f"{split}.json" for split in SPLITS)}
# how many pairs a picture holds, and how two of them come together
_PAIRS = {1: 0.25, 2: 0.52, 3: 0.23}
_KINDS = {CROSSING: 0.47, SAME_OBJECT: 0.22, SAME_PERSON: 0.1, APART: 0.21}

Plan = list[tuple[str, list[Action]]]


def generate(
    root: str | Path,
    *,
    train: int = 2000,
    test: int = 500,
    seed: int = 0,
    size: int = 128,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make the dataset in the folder `root`; the same arguments make the same bytes.

    Does nothing where the same dataset is there already. The folder appears complete or not at
    all; an older one made by this function is replaced.

    Args:
        train, test: images in each split.
        seed: of everything random; test images share nothing with training images.
        size: side of the square images in pixels.
        workers: processes; None: one for each processor. Does not change the result.
        progress: called as progress(images done, images in all).

    Raises:
        UserError: `root` holds something else, or cannot be written; an argument is out of range.
    """
    root = Path(root)
    for name, value, least in (
        ("train", train, 1),
        ("test", test, 1),
        ("seed", seed, 0),
        ("size", size, 32),
    ):
        if value < least:
            raise UserError(f"{name} is {value}; expected at least {least}")
    recipe = {"version": recipe_version(), "seed": seed, "size": size, "train": train, "test": test}
    with _write_errors(root):
        _check_folder(root)
        if _is_there(root, recipe):
            return
        with _replacing(root.resolve()) as folder:
            _write(folder, recipe, workers, progress)


def _write(folder: Path, recipe: dict, workers: int | None, progress: Callable | None) -> None:
    jobs = []
    for index, split in enumerate(SPLITS):
        images = folder / "images" / split
        images.mkdir(parents=True)
        rng = np.random.default_rng([recipe["seed"], index, 0])
        plans = plan_images(recipe[split], split == "test", rng)
        jobs += [
            (images / f"{number:06d}.png", (recipe["seed"], index, 1 + number), plan)
            for number, plan in enumerate(plans)
        ]
    entries = []
    for entry in _each(partial(_make_image, size=recipe["size"]), jobs, workers):
        entries.append(entry)
        if progress is not None:
            progress(len(entries), len(jobs))
    for split in SPLITS:
        part, entries = entries[: recipe[split]], entries[recipe[split] :]
        (folder / f"{split}.json").write_text(json.dumps(part), encoding="utf-8")
    description = json.dumps(_description(recipe), indent=1)
    (folder / "dataset.json").write_text(description, encoding="utf-8")


def recipe_version() -> str:
    """A short hash of this package's source: it changes whenever the pictures may."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name not in ("__init__.py", "stats.py"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def plan_images(count: int, balanced: bool, rng: np.random.Generator) -> list[Plan]:
    """What each of `count` images shows: groups of one or two actions, drawn from one deck."""
    numbers = rng.choice(list(_PAIRS), count, p=list(_PAIRS.values()))
    kinds = rng.choice(list(_KINDS), count, p=list(_KINDS.values()))
    actions = deck(int(numbers.sum()), balanced, rng)
    plans = []
    for number, kind in zip(numbers, kinds, strict=True):
        first = actions.pop()
        if number == 1:
            plans.append([(APART, [first])])
            continue
        fits = _PARTNERS[kind]
        match = next((i for i in range(len(actions) - 1, -1, -1) if fits(first, actions[i])), None)
        second = actions.pop() if match is None else actions.pop(match)
        plan = [(APART if match is None else str(kind), [first, second])]
        if number == 3:
            plan.append((APART, [actions.pop()]))
        plans.append(plan)
    return plans


def _same_object(a: Action, b: Action) -> bool:
    return (a.object, a.state) == (b.object, b.state) and not set(a.verbs) & set(b.verbs)


def _same_person(a: Action, b: Action) -> bool:
    # both arms are held out, so only a leg can give the cue
    return a.cues == b.cues and a.cues in ((LEG_BACK,), (KNEEL,)) and a.verbs != b.verbs


_PARTNERS: dict[str, Callable[[Action, Action], bool]] = {
    CROSSING: lambda a, b: can_cross(a, b) and not set(a.verbs) & set(b.verbs),
    SAME_OBJECT: _same_object,
    SAME_PERSON: _same_person,
    APART: lambda a, b: True,
}


def _make_image(job: tuple[Path, tuple[int, int, int], Plan], size: int) -> dict:
    """Draw one image, write it, and return its annotation."""
    path, seeds, plan = job
    rng = np.random.default_rng(seeds)
    scene = sample_scene(plan, rng)
    image = cv2.cvtColor(render(scene, size, rng), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", image)
    if not done:
        raise RuntimeError(f"OpenCV could not encode {path.name}")
    path.write_bytes(data.tobytes())
    return annotation(scene, path.name, f"{path.parent.name}-{path.stem}", size)


def annotation(scene: Scene, file_name: str, image_id: str, size: int) -> dict:
    """The scene's entry in the annotation file; ids count from 1, the person is object 1."""
    ids = {name: number for number, name in enumerate(("person", *OBJECTS), 1)}
    return {
        "file_name": file_name,
        "img_id": image_id,
        "annotations": [
            {
                "bbox": [round(float(edge), 2) for edge in item.box * (size / SIZE)],
                "category_id": ids[item.name],
            }
            for item in scene.items
        ],
        "hoi_annotation": [
            {
                "subject_id": person,
                "object_id": object_,
                "category_id": VERBS.index(verb) + 1,
                "hoi_category_id": HOIS.index((verb, action.object)) + 1,
            }
            for person, object_, action in scene.pairs
            for verb in action.verbs
        ],
    }


def _description(recipe: dict) -> dict:
    objects, verbs = ("person", *OBJECTS), VERBS
    return {
        "name": NAME,
        "version": recipe["version"],
        "recipe": recipe,
        "objects": [{"id": i, "name": name} for i, name in enumerate(objects, 1)],
        "verbs": [{"id": i, "name": name} for i, name in enumerate(verbs, 1)],
        "hois": [[verbs.index(verb) + 1, objects.index(object_) + 1] for verb, object_ in HOIS],
        "splits": {
            split: {"annotations": f"{split}.json", "images": f"images/{split}"} for split in SPLITS
        },
    }


def _each(function: Callable, jobs: list, workers: int | None) -> Iterator:
    """function(job) for every job, in order, in several processes."""
    if workers is None:
        workers = usable_cores()
    workers = min(workers, 1 + len(jobs) // 100)  # starting a process takes as long as 100 images
    if workers <= 1:
        yield from map(function, jobs)
        return
    # Not fork: a fork of a process that has run OpenCV's or torch's threads may hang. Not a Pool:
    # where a worker cannot start (a script without its __main__ guard) it would try for ever.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        yield from pool.map(function, jobs, chunksize=16)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)


def _check_folder(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise UserError(f"{root} is a file; give a folder for the generated dataset")
    content = {path.name for path in root.iterdir()}
    if content and (not content <= _CONTENT or _recipe_of(root) is None):
        foreign = sorted(content - _CONTENT) or sorted(content)
        raise UserError(
            f"{root} is not a generated dataset: it holds {', '.join(islice(foreign, 3))}. Nothing "
            "was changed; give a new or empty folder"
        )


def _recipe_of(root: Path) -> dict | None:
    """The recipe of a dataset that `generate` made; None for anything else."""
    try:
        description = json.loads((root / "dataset.json").read_bytes())
        return description["recipe"] if description["name"] == NAME else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_there(root: Path, recipe: dict) -> bool:
    if not root.exists() or _recipe_of(root) != recipe:
        return False
    return all(
        (root / f"{split}.json").is_file()
        and len(list((root / "images" / split).glob("*.png"))) == recipe[split]
        for split in SPLITS
    )


@contextmanager
def _replacing(root: Path) -> Iterator[Path]:
    """A new folder beside `root` that takes its place at the end, or vanishes on an error."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if root.exists():
            os.replace(root, old)
        os.replace(new, root)


@contextmanager
def _write_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or root}: {error.strerror or error}. Free some space or "
            "choose a folder that you may write to"
        ) from error
