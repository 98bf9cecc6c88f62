"""V-COCO's metric: role AP in Scenario 1 and 2, agent AP.

As the official vsrl_eval.py does, a detection goes to the person that it overlaps most, and is
ignored if that person has no labels (even without overlap). It is correct if the person does the
action, the person boxes overlap by at least 0.5, the roles agree and the person is still free for
this action and role. Roles agree if the object boxes overlap by at least 0.5; where the ground
truth has no object, Scenario 1 wants a prediction without an object and Scenario 2 takes any. The
object's class does not count. AP is the area under the precision envelope; positives are all
persons with the action, with or without an object. The reported mean is over 24 roles, without
"point instr" (few instances); the mean over 25 is given too.

Where the official script has no result: an action without detections has AP 0, one without
positives NaN (left out of means), and detections in an image without persons are false positives.
It computes in float32, this in float64. Boxes are edges; the official inclusive [x, x + w - 1]
with 1 added to widths is the same.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ggnet.data.annotations import read_json
from ggnet.data.tables import vcoco_actions
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.eval.boxes import iou
from ggnet.eval.predictions import ImagePrediction
from ggnet.io import atomic_write

MIN_IOU = 0.5
LEFT_OUT = "point_instr"  # of the mean over 24 roles
AGENT = "agent"
SCENARIOS = ("scenario 1", "scenario 2")


@dataclass
class Person:
    """Ground truth of one person."""

    box: np.ndarray  # (4,) float64 edges
    labelled: bool  # False: V-COCO says nothing about this person
    actions: dict[str, dict[str, np.ndarray | None]]  # action -> role -> object box or None


@dataclass
class Detections:
    """Scored (person, action, role, object) detections of one image, in columns."""

    image_id: str
    person_boxes: np.ndarray  # (n, 4) edges
    names: list[str]  # (n,) "action_role", or "action_agent" for the action alone
    object_boxes: np.ndarray  # (n, 4) edges; NaN: no object
    scores: np.ndarray  # (n,)


@dataclass(eq=False)
class VcocoResult:
    """AP in percent; NaN where there are no positives."""

    role_ap: dict[str, dict[str, float]]  # scenario -> "action_role" -> AP
    agent_ap: dict[str, float]  # action -> AP
    positives: dict[str, int]  # action -> persons that do it
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    # "action_role" -> precision and recall in Scenario 1, fractions

    def mean_role_ap(self, scenario: str = "scenario 1", roles: int = 24) -> float:
        """Mean over 24 roles (the number that papers report) or all 25."""
        values = [
            value
            for name, value in self.role_ap[scenario].items()
            if roles == 25 or name != LEFT_OUT
        ]
        return _mean(values)

    def mean_agent_ap(self) -> float:
        """Mean over the 26 actions."""
        return _mean(list(self.agent_ap.values()))

    def table(self) -> Table:
        """The means as a rich table."""
        table = Table(title="V-COCO AP")
        for name in ("", "24 roles", "25 roles"):
            table.add_column(name, justify="right" if name else "left")
        for scenario in SCENARIOS:
            means = (self.mean_role_ap(scenario, roles) for roles in (24, 25))
            table.add_row(f"role AP, {scenario}", *(f"{value:.2f}" for value in means))
        table.add_row("agent AP, 26 actions", f"{self.mean_agent_ap():.2f}", "")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        means = {
            f"{scenario}, {roles} roles": self.mean_role_ap(scenario, roles)
            for scenario in SCENARIOS
            for roles in (24, 25)
        }
        values = {
            "metric": "V-COCO AP",
            "mean_role_ap": means,
            "mean_agent_ap": {"26 actions": self.mean_agent_ap()},
            "agent_ap": self.agent_ap,
            **{f"role_ap, {scenario}": self.role_ap[scenario] for scenario in SCENARIOS},
        }
        return {
            key: {k: None if np.isnan(v) else v for k, v in value.items()}
            if isinstance(value, dict)
            else value
            for key, value in values.items()
        } | {"positives": self.positives}

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        with atomic_write(path, "w") as file:
            file.write(json.dumps(self.to_dict(), indent=1) + "\n")

    def to_csv(self, path: str | Path) -> None:
        """Write one row for each action's role."""
        with atomic_write(path, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["action_role", "positives", *SCENARIOS])
            for name in self.role_ap[SCENARIOS[0]]:
                figures = [self.role_ap[scenario][name] for scenario in SCENARIOS]
                writer.writerow([name, self.positives[name.rsplit("_", 1)[0]], *figures])


def read_roles(path: str | Path) -> dict[str, list[Person]]:
    """Image id -> persons, from the roles file that `ggnet.data.convert` writes."""
    values = read_json(Path(path))
    try:
        return {
            row["image_id"]: [
                Person(
                    np.array(person["box"], dtype=np.float64),
                    person["labelled"],
                    {
                        action: {
                            role: None if box is None else np.array(box, dtype=np.float64)
                            for role, box in roles.items()
                        }
                        for action, roles in person["actions"].items()
                    },
                )
                for person in row["persons"]
            ]
            for row in values
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a V-COCO roles file ({type(error).__name__}: {error}); "
            "`ggnet data convert vcoco-official` writes it"
        ) from None


def detections(predictions: Iterable[ImagePrediction], vocabulary: Vocabulary) -> list[Detections]:
    """The triplets as V-COCO detections; a person's score for an action is its best triplet's."""
    result = []
    for prediction in predictions:
        names = [vocabulary.verbs[verb] for verb in prediction.verbs.tolist()]
        people = prediction.human_boxes.astype(np.float64)
        best: dict[tuple, float] = {}
        for box, name, score in zip(
            people.tolist(), names, prediction.scores.tolist(), strict=True
        ):
            key = (*box, name.rsplit("_", 1)[0])
            best[key] = max(best.get(key, 0.0), score)
        agents = np.array([key[:4] for key in best], dtype=np.float64).reshape(-1, 4)
        result.append(
            Detections(
                prediction.image_id,
                np.concatenate([people, agents]),
                names + [f"{key[4]}_{AGENT}" for key in best],
                np.concatenate([prediction.object_boxes, np.full_like(agents, np.nan)]),
                np.concatenate([prediction.scores, list(best.values())]),
            )
        )
    return result


def evaluate(found: Sequence[Detections], truth: dict[str, list[Person]]) -> VcocoResult:
    """Score detections against the persons of a split.

    Raises:
        UserError: detections of an image that is not in `truth`, or two entries of the same image.
    """
    seen: set[str] = set()
    columns = _Columns()
    for image in found:
        if image.image_id not in truth or image.image_id in seen:
            problem = "is there twice" if image.image_id in seen else "is not in the ground truth"
            raise UserError(
                f"image {image.image_id} {problem}; expected at most one entry for each image of "
                "the split. Are these predictions of another split?"
            )
        seen.add(image.image_id)
        columns.add(image, truth[image.image_id])
    actions = vcoco_actions()
    people = [person for persons in truth.values() for person in persons]
    positives = {a.name: sum(a.name in person.actions for person in people) for a in actions}
    role_ap: dict[str, dict[str, float]] = {scenario: {} for scenario in SCENARIOS}
    agent_ap, curves = {}, {}
    for action in actions:
        count = positives[action.name]
        agent_ap[action.name] = _average_precision(
            columns.correct(f"{action.name}_{AGENT}", SCENARIOS[1]), count
        )
        for role in action.roles:
            name = f"{action.name}_{role}"
            for scenario in SCENARIOS:
                correct = columns.correct(name, scenario)
                role_ap[scenario][name] = _average_precision(correct, count)
                if scenario == SCENARIOS[0]:
                    hits = np.cumsum(correct)
                    curves[name] = hits / np.arange(1, len(hits) + 1), hits / max(count, 1)
    return VcocoResult(role_ap, agent_ap, positives, curves)


class _Columns:
    """All images' detections by name, each with its person and whether the rules hold."""

    def __init__(self):
        # name -> rows (score, image id, boxes, person or None, fits in scenario 1, in scenario 2)
        self.rows: dict[str, list[tuple]] = {}

    def add(self, image: Detections, people: list[Person]) -> None:
        count, crowd = len(image.names), len(people)
        nearest, close = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
        if crowd and count:
            boxes = np.stack([person.box for person in people])
            overlap = iou(np.repeat(image.person_boxes, crowd, 0), np.tile(boxes, (count, 1)))
            overlap = overlap.reshape(count, crowd)
            nearest = overlap.argmax(axis=1)
            close = overlap.max(axis=1) >= MIN_IOU
        for row, name in enumerate(image.names):
            fits = (False, False)
            if crowd:
                person = people[nearest[row]]
                if not person.labelled:
                    continue
                action, _, role = name.rpartition("_")
                if close[row] and action in person.actions:
                    fits = _role_fits(role, person.actions[action], image.object_boxes[row])
            ties = (image.image_id, *image.person_boxes[row], *image.object_boxes[row])
            entry = (-float(image.scores[row]), ties, int(nearest[row]), *fits)
            self.rows.setdefault(name, []).append(entry)

    def correct(self, name: str, scenario: str) -> np.ndarray:
        """(n,) bool by falling score; a person's second detection is a false positive."""
        column = 3 + SCENARIOS.index(scenario)
        covered, result = set(), []
        for entry in sorted(self.rows.get(name, []), key=lambda row: (row[0], str(row[1]))):
            person = entry[1][0], entry[2]
            result.append(entry[column] and person not in covered)
            if entry[column]:
                covered.add(person)
        return np.array(result, dtype=bool)


def _role_fits(
    role: str, roles: dict[str, np.ndarray | None], box: np.ndarray
) -> tuple[bool, bool]:
    """Whether the predicted object is right in Scenario 1 and 2, given the person and action."""
    if role == AGENT:
        return True, True
    target = roles.get(role)
    empty = bool(np.isnan(box).all())
    if target is None:
        return empty, True
    right = not empty and bool(iou(target[None], box[None])[0] >= MIN_IOU)
    return right, right


def _average_precision(correct: np.ndarray, positives: int) -> float:
    """Area under the precision envelope in percent."""
    if not positives:
        return float("nan")
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(100 * envelope[correct].sum() / positives)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
