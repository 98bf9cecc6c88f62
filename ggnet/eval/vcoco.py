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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ggnet.data.annotations import read_json
from ggnet.data.tables import vcoco_actions
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader
from ggnet.eval.boxes import best_candidate, candidates, iou
from ggnet.eval.curve import Curve
from ggnet.eval.predictions import ImagePrediction, finite
from ggnet.io import atomic_write

MIN_IOU = 0.5
LEFT_OUT = "point_instr"  # of the mean over 24 roles
AGENT = "agent"
SCENARIOS = ("scenario 1", "scenario 2")
_ROLES = {action.name: action.roles for action in vcoco_actions()}
NAMES = {  # "action_agent" and "action_role" -> number
    name: number
    for number, name in enumerate(
        f"{action}_{role}" for action, roles in _ROLES.items() for role in (AGENT, *roles)
    )
}


@dataclass
class Person:
    """Ground truth of one person."""

    box: np.ndarray  # (4,) float64 edges
    labelled: bool  # False: V-COCO says nothing about this person
    actions: dict[str, dict[str, np.ndarray | None]]  # action -> role -> object box or None


@dataclass
class RolePredictions:
    """Scored (person, action, role, object) of one image, in columns."""

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
    curves: dict[str, Curve] = field(repr=False)  # "action_role" -> of Scenario 1

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

    def headline(self) -> dict[str, float]:
        """Mean role AP over 24 roles, in Scenario 1 (`mAP`) and 2."""
        means = {"mAP": self.mean_role_ap(), "mAP_s2": self.mean_role_ap("scenario 2")}
        return {name: value for name, value in means.items() if not np.isnan(value)}

    def named_curves(self) -> dict[str, Curve]:
        """ "action_role" -> precision over recall in Scenario 1."""
        return self.curves

    def hoi_ap(self) -> None:
        """None: the object's class does not count, so there are no HOIs."""

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

    def class_table(self) -> Table:
        """Every action's role as a rich table, best first."""
        table = Table(title="AP of each role")
        for name in ("action and role", *SCENARIOS, "persons"):
            table.add_column(name, justify="left" if name == "action and role" else "right")
        first, second = (self.role_ap[scenario] for scenario in SCENARIOS)
        for name in sorted(first, key=lambda name: -np.nan_to_num(first[name], nan=-1.0)):
            action = name.rsplit("_", 1)[0]
            figures = (f"{values[name]:.2f}" for values in (first, second))
            table.add_row(name.replace("_", " "), *figures, str(self.positives[action]))
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

    def to_csv(self, path: str | Path) -> None:
        """Write one row for each action's role."""
        with atomic_write(path, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["action_role", "positives", *SCENARIOS])
            for name in self.role_ap[SCENARIOS[0]]:
                figures = [self.role_ap[scenario][name] for scenario in SCENARIOS]
                writer.writerow([name, self.positives[name.rsplit("_", 1)[0]], *figures])


@reader("V-COCO's roles, which `ggnet data convert vcoco-official` writes")
def read_roles(path: str | Path) -> dict[str, list[Person]]:
    """Image id -> persons, from the roles file that `ggnet.data.convert` writes."""
    images = {
        row["image_id"]: [_person(person) for person in row["persons"]]
        for row in read_json(Path(path))
    }
    if not all(isinstance(image_id, str) for image_id in images):
        raise TypeError("an image_id is no text")
    return images


def _person(values: dict[str, Any]) -> Person:
    if type(values["labelled"]) is not bool:
        raise TypeError(f"labelled is {values['labelled']!r}")
    actions = {
        action: {role: None if box is None else finite([box], 4)[0] for role, box in roles.items()}
        for action, roles in values["actions"].items()
    }
    names = {f"{action}_{role}" for action, roles in actions.items() for role in (AGENT, *roles)}
    if unknown := names - NAMES.keys():
        raise ValueError(f"{min(unknown)!r} is no action and role of V-COCO")
    return Person(finite([values["box"]], 4)[0], values["labelled"], actions)


def role_predictions(
    predictions: Iterable[ImagePrediction], vocabulary: Vocabulary
) -> list[RolePredictions]:
    """The triplets by V-COCO's roles; a person's score for an action is its best triplet's."""
    actions = sorted({name.rsplit("_", 1)[0] for name in vocabulary.verbs})
    action_of = np.array([actions.index(name.rsplit("_", 1)[0]) for name in vocabulary.verbs])
    result = []
    for prediction in predictions:
        people = prediction.human_boxes.astype(np.float64)
        keys = np.column_stack([people, action_of[prediction.verbs]])
        agents, where = np.unique(keys, axis=0, return_inverse=True)
        best = np.zeros(len(agents))
        np.maximum.at(best, where.reshape(-1), prediction.scores)
        names = [vocabulary.verbs[verb] for verb in prediction.verbs.tolist()]
        names += [f"{actions[action]}_{AGENT}" for action in agents[:, 4].astype(int).tolist()]
        nothing = np.full((len(agents), 4), np.nan)
        result.append(
            RolePredictions(
                prediction.image_id,
                np.concatenate([people, agents[:, :4]]),
                names,
                np.concatenate([prediction.object_boxes, nothing]),
                np.concatenate([prediction.scores, best]),
            )
        )
    return result


def evaluate(found: Sequence[RolePredictions], truth: dict[str, list[Person]]) -> VcocoResult:
    """Score role predictions against the persons of a split.

    Raises:
        UserError: predictions of an image that is not in `truth`, two entries of the same image, or
            a name that is no action and role.
    """
    seen: set[str] = set()
    for image in found:
        if image.image_id not in truth or image.image_id in seen:
            problem = "is there twice" if image.image_id in seen else "is not in the ground truth"
            raise UserError(
                f"image {image.image_id} {problem}; expected at most one entry for each image of "
                "the split. Are these predictions of another split?"
            )
        seen.add(image.image_id)
        if unknown := set(image.names) - NAMES.keys():
            raise UserError(
                f"image {image.image_id}: '{min(unknown)}' is no action and role of V-COCO"
            )
    actions = vcoco_actions()
    people = [person for persons in truth.values() for person in persons]
    positives = {a.name: sum(a.name in person.actions for person in people) for a in actions}
    correct = _match(found, truth)
    role_ap: dict[str, dict[str, float]] = {scenario: {} for scenario in SCENARIOS}
    agent_ap, curves = {}, {}
    for action in actions:
        count = positives[action.name]
        rows = correct[f"{action.name}_{AGENT}"]
        agent_ap[action.name] = _average_precision(rows[SCENARIOS[0]], count)
        for role in action.roles:
            name = f"{action.name}_{role}"
            for scenario in SCENARIOS:
                role_ap[scenario][name] = _average_precision(correct[name][scenario], count)
            hits = np.cumsum(correct[name][SCENARIOS[0]])
            curves[name] = Curve(
                hits / np.arange(1, len(hits) + 1),
                hits / max(count, 1),
                role_ap[SCENARIOS[0]][name],
                count,
            )
    return VcocoResult(role_ap, agent_ap, positives, curves)


def _match(
    found: Sequence[RolePredictions], truth: dict[str, list[Person]]
) -> dict[str, dict[str, np.ndarray]]:
    """Name -> scenario -> (n,) bool: whether each detection is correct, by falling score.

    Those that go to a person without labels are left out.
    """
    order = {image_id: rank for rank, image_id in enumerate(sorted(truth))}
    owners = np.array([order[i] for i in order for _ in truth[i]], dtype=np.int64)  # sorted
    people = [person for image_id in order for person in truth[image_id]]
    boxes = np.array([person.box for person in people], dtype=np.float64).reshape(-1, 4)
    labelled = np.array([person.labelled for person in people], dtype=bool)
    does = np.zeros((len(people), len(NAMES)), dtype=bool)
    targets = np.full((len(people), len(NAMES), 4), np.nan)
    for number, person in enumerate(people):
        for action, roles in person.actions.items():
            for role, box in {AGENT: None, **dict.fromkeys(_ROLES[action]), **roles}.items():
                does[number, NAMES[f"{action}_{role}"]] = True
                if box is not None:
                    targets[number, NAMES[f"{action}_{role}"]] = box

    images = np.repeat(
        np.array([order[image.image_id] for image in found], dtype=np.int64),
        np.array([len(image.names) for image in found], dtype=np.int64),
    )
    names = np.array([NAMES[name] for image in found for name in image.names], dtype=np.int64)
    humans, objects = (
        np.concatenate([np.zeros((0, 4)), *(getattr(image, kind) for image in found)])
        for kind in ("person_boxes", "object_boxes")
    )
    scores = np.concatenate([np.zeros(0), *(image.scores for image in found)])

    nearest, close = np.full(len(names), -1, dtype=np.int64), np.zeros(len(names), dtype=bool)
    for detection, person in candidates(images, owners):
        overlap = iou(humans[detection], boxes[person])
        rows = best_candidate(detection, person, overlap)
        nearest[detection[rows]] = person[rows]
        close[detection[rows]] = overlap[rows] >= MIN_IOU
    counted = np.flatnonzero((nearest < 0) | np.append(labelled, True)[nearest])
    ties = (images, *humans.T, *np.nan_to_num(objects, nan=-1.0).T)
    keys = [column[counted] for column in (names, -scores, *ties)]
    counted = counted[np.lexsort(keys[::-1])]

    images, names, nearest, objects = (x[counted] for x in (images, names, nearest, objects))
    acts = close[counted]
    acts[acts] = does[nearest[acts], names[acts]]
    target = np.full((len(counted), 4), np.nan)
    target[acts] = targets[nearest[acts], names[acts]]
    empty, no_target = np.isnan(objects).all(axis=1), np.isnan(target).all(axis=1)
    overlaps = iou(np.nan_to_num(target), np.nan_to_num(objects)) >= MIN_IOU
    fits = {
        SCENARIOS[0]: acts & np.where(no_target, empty, overlaps),
        SCENARIOS[1]: acts & (no_target | overlaps),
    }
    bounds = np.searchsorted(names, np.arange(len(NAMES) + 1))
    result: dict[str, dict[str, np.ndarray]] = {name: {} for name in NAMES}
    for scenario, right in fits.items():
        hits = np.flatnonzero(right)
        person_and_name = nearest[hits] * len(NAMES) + names[hits]
        correct = np.zeros(len(names), dtype=bool)
        correct[hits[np.unique(person_and_name, return_index=True)[1]]] = True
        for name, number in NAMES.items():
            result[name][scenario] = correct[bounds[number] : bounds[number + 1]]
    return result


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
