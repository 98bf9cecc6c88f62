"""Where people and objects go: pairs by their verbs' layouts, and bystanders who do nothing.

Who does something to what can be seen: exactly the people who do hold an arm out towards the
object, and nothing else lies that way. Coordinates are pixels of a 128-pixel picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from ggnet.data.scenes import figures, objects
from ggnet.data.scenes.recipe import (
    ARM_BACK,
    ARM_UP,
    KNEEL,
    LAYOUT,
    LEG_BACK,
    MOVING,
    OBJECTS,
    STATES,
    Action,
)
from ggnet.data.scenes.shapes import Drawing

SIZE = 128.0
KINDS = APART, CROSSING, SAME_OBJECT, SAME_PERSON = (
    "apart",
    "crossing",
    "same object",
    "same person",
)
_MARGIN = 2.0  # pixels between a figure and the picture's border
_OVERLAP = 0.06  # of two boxes, as a share of the smaller one; twice that within a pair
_CONE = 22.0  # degrees about an arm's line in which there is only its target
_CANDIDATES = 64


@dataclass(eq=False)
class Item:
    """A person or an object in its place."""

    name: str
    drawings: list[Drawing]
    box: np.ndarray  # [x1, y1, x2, y2], tight about the figure, outline included
    clearance: np.ndarray  # the box that other figures keep out of: also holds speed lines
    state: str = ""
    cues: tuple[str, ...] = ()

    @property
    def center(self) -> np.ndarray:
        return (self.box[:2] + self.box[2:]) / 2


@dataclass(eq=False)
class Aim:
    """An arm held out from `shoulder` along `direction` to an object, or to nothing."""

    shoulder: np.ndarray
    direction: np.ndarray
    target: Item | None = None


@dataclass(eq=False)
class Scene:
    """Figures in the order of annotation, pairs, and how the pairs came together."""

    kinds: tuple[str, ...] = ()
    items: list[Item] = field(default_factory=list)
    pairs: list[tuple[int, int, Action]] = field(default_factory=list)  # person, object (items)
    aims: list[Aim] = field(default_factory=list)


def sample_scene(plan: Sequence[tuple[str, Sequence[Action]]], rng: np.random.Generator) -> Scene:
    """Place every group of the plan (a kind of KINDS and its one or two actions), then bystanders.

    A scene that does not come together is begun anew; after many attempts its groups are broken up
    into single pairs, so that every action of the plan is shown.
    """
    for attempt in range(400):
        if attempt == 60:
            plan = [(APART, [action]) for _, actions in plan for action in actions]
        scene = Scene()
        if all(_place_group(scene, kind, actions, rng) for kind, actions in plan):
            _add_bystanders(scene, rng)
            return scene
    raise RuntimeError(f"no room for {plan}")


def can_cross(a: Action, b: Action) -> bool:
    """Whether two pairs have room about one interaction point: long enough, or steep enough."""
    (elevation_a, distance_a), (elevation_b, distance_b) = (LAYOUT[x.verbs[0]] for x in (a, b))
    return distance_a + distance_b + (abs(elevation_a) + abs(elevation_b)) / 2 >= 95


def _place_group(scene: Scene, kind: str, actions: Sequence[Action], rng) -> bool:
    scene.kinds += (kind,)
    if kind == SAME_OBJECT:
        return _place_same_object(scene, actions, rng)
    if kind == SAME_PERSON:
        return _place_same_person(scene, actions, rng)
    shrink = 0.84 if kind == CROSSING else 1.0
    middle = None
    for action in actions:
        point = _place_pair(scene, action, middle, shrink, rng)
        if point is None:
            return False
        if kind == CROSSING:
            middle = point
    return True


def _place_pair(
    scene: Scene, action: Action, middle: np.ndarray | None, shrink: float, rng
) -> np.ndarray | None:
    """Add a person, an object and their action, about `middle` if given.

    Returns the interaction point, or None where there is no room.
    """
    steps = _steps(action, rng)
    if middle is None:
        points = rng.uniform(20, SIZE - 20, steps.shape)
    else:
        points = middle + rng.uniform(-4.5, 4.5, steps.shape)
    height, size = _height(rng) * shrink, _size(action.object, rng)
    people, things = points - steps / 2, points + steps / 2
    for i in _promising(scene, [(people, _torso(height)), (things, (size * 0.3, size * 0.3))]):
        object_ = _object(action.object, action.state, size, things[i], steps[i], rng)
        if not _fits(scene, object_):
            continue
        person, aims = _person(action.cues, height, people[i], [object_.box], rng)
        if _add(scene, [object_, person], _at(aims, object_), [(1, 0, action)]):
            return points[i]
    return None


def _place_same_object(scene: Scene, actions: Sequence[Action], rng) -> bool:
    """Two people and the one object that both act on."""
    steps = [_steps(action, rng) for action in actions]
    centers = rng.uniform(16, SIZE - 16, steps[0].shape)
    heights, size = [_height(rng), _height(rng)], _size(actions[0].object, rng)
    people = [centers - step for step in steps]
    slots = [(place, _torso(height)) for place, height in zip(people, heights, strict=True)]
    for i in _promising(scene, [*slots, (centers, (size * 0.3, size * 0.3))]):
        first, second = actions
        object_ = _object(first.object, first.state, size, centers[i], steps[0][i], rng)
        person, aims = _person(first.cues, heights[0], people[0][i], [object_.box], rng)
        other, more = _person(second.cues, heights[1], people[1][i], [object_.box], rng)
        aims = _at(aims + more, object_, object_)
        if _add(scene, [object_, person, other], aims, [(1, 0, first), (2, 0, second)]):
            return True
    return False


def _place_same_person(scene: Scene, actions: Sequence[Action], rng) -> bool:
    """One person who acts on two objects on the same side, one with each arm."""
    side = rng.choice((-1.0, 1.0))
    steps = [_steps(action, rng, side) for action in actions]
    centers = rng.uniform(16, SIZE - 16, steps[0].shape)
    height, sizes = _height(rng), [_size(action.object, rng) for action in actions]
    things = [centers + step for step in steps]
    slots = [(place, (size * 0.3,) * 2) for place, size in zip(things, sizes, strict=True)]
    for i in _promising(scene, [*slots, (centers, _torso(height))]):
        targets = [
            _object(action.object, action.state, sizes[k], things[k][i], steps[k][i], rng)
            for k, action in enumerate(actions)
        ]
        boxes = [target.box for target in targets]
        person, aims = _person(actions[0].cues, height, centers[i], boxes, rng)
        links = [(0, k, action) for k, action in enumerate(actions, 1)]
        if _add(scene, [person, *targets], _at(aims, *targets), links):
            return True
    return False


def _add_bystanders(scene: Scene, rng) -> None:
    """One or two people and objects with random cues and states who have nothing to do with it."""
    for _ in range(rng.integers(1, 3)):
        centers = rng.uniform(12, SIZE - 12, (_CANDIDATES, 2))
        if rng.random() < 0.45:
            height = _height(rng)
            arm = (ARM_UP, ARM_BACK, None)[rng.integers(3)]
            leg = (LEG_BACK, KNEEL, None, None)[rng.integers(4)]
            cues = tuple(cue for cue in (arm, leg) if cue is not None)
            aiming = rng.random() < 0.35
            for i in _promising(scene, [(centers, _torso(height))]):
                ahead = centers[i] + 60 * _directions(rng.uniform(-40, 40, 1), rng)[0]
                boxes = [np.tile(ahead, 2)] if aiming else []
                person, aims = _person(cues, height, centers[i], boxes, rng)
                if _add(scene, [person], aims, []):
                    break
        else:
            name, state = OBJECTS[rng.integers(len(OBJECTS))], STATES[rng.integers(len(STATES))]
            size, direction = _size(name, rng), _directions(rng.uniform(-60, 60, 1), rng)[0]
            for i in _promising(scene, [(centers, (size * 0.3, size * 0.3))]):
                if _add(scene, [_object(name, state, size, centers[i], direction, rng)], [], []):
                    break


def _height(rng) -> float:
    return float(rng.uniform(30, 47))


def _size(name: str, rng) -> float:
    return float(rng.uniform(*objects.SIZES[name]))


def _torso(height: float) -> tuple[float, float]:
    """Half the size of what a person about fills."""
    return 0.2 * height, 0.38 * height


def _directions(elevations: np.ndarray, rng, side: float | None = None) -> np.ndarray:
    """(n, 2) unit vectors; degrees above the horizontal; to a random side unless given."""
    angles = np.radians(elevations)
    sides = rng.choice((-1.0, 1.0), len(angles)) if side is None else side
    return np.stack([sides * np.cos(angles), -np.sin(angles)], 1)


def _steps(action: Action, rng, side: float | None = None) -> np.ndarray:
    """(n, 2) from a person's center to the object's, as the verbs' common layout has it."""
    elevation, distance = LAYOUT[action.verbs[0]]
    # steeper than 50 degrees, an arm held out would look like an arm raised
    elevations = np.clip(elevation + 14 * rng.standard_normal(_CANDIDATES), -60, 50)
    distances = distance * rng.uniform(0.8, 1.2, _CANDIDATES)
    size = sum(objects.SIZES[action.object]) / 2  # large objects do not fit as near
    return (distances + (size - 18) / 2)[:, None] * _directions(elevations, rng, side)


def _promising(scene: Scene, slots: list[tuple[np.ndarray, tuple[float, float]]]) -> Iterator[int]:
    """The candidates worth drawing: a few for which the cores of all figures find room.

    Args:
        slots: for each figure the candidates' centers (n, 2) and half the core's size (x, y).
    """
    taken = np.array([item.clearance for item in scene.items]).reshape(-1, 4)
    good = np.ones(len(slots[0][0]), dtype=bool)
    for centers, half in slots:
        low, high = centers - half, centers + half
        good &= (low > _MARGIN).all(1) & (high < SIZE - _MARGIN).all(1)
        inside = (high[:, None] > taken[:, :2]) & (low[:, None] < taken[:, 2:])
        good &= ~inside.all(2).any(1)
    yield from np.flatnonzero(good)[:8]


def _object(
    name: str, state: str, size: float, center: np.ndarray, direction: np.ndarray, rng
) -> Item:
    # the far end away from the person, but a moving object comes head first
    mirror = (direction[0] < 0) != (state == MOVING)
    drawing = objects.thing(name, state, size, rng).transform(mirror=mirror, shift=center)
    box = drawing.bounds()
    if state != MOVING:
        return Item(name, [drawing], box, box, state=state)
    unit = direction / np.linalg.norm(direction)
    lines = objects.speed_lines((box[2:] - box[:2]) / 2, unit).transform(shift=center)
    behind = lines.bounds()
    clearance = np.concatenate([np.minimum(box, behind)[:2], np.maximum(box, behind)[2:]])
    return Item(name, [lines, drawing], box, clearance, state=state)


def _person(
    cues: tuple[str, ...], height: float, center: np.ndarray, targets: Sequence[np.ndarray], rng
) -> tuple[Item, list[Aim]]:
    """A person whose box is centered at `center`, with an arm out to each target box."""
    look = figures.random_look(rng)
    sway = rng.uniform((-4, -12, -8), (4, 12, 8))
    mirror = bool(targets[0][[0, 2]].mean() < center[0] if targets else rng.random() < 0.5)
    side = np.array([-1.0 if mirror else 1.0, 1.0])
    shoulder = center - (0.0, 0.15 * height)
    for _ in range(2 if targets else 1):  # the arm's direction moves the box and the shoulder
        aims = [_to_edge(shoulder, target) for target in targets]
        arms = [(np.degrees(np.arctan2(*(aim * side))), np.linalg.norm(aim)) for aim in aims]
        drawing, joint = figures.person(height, cues, arms, look, sway)
        drawing = drawing.transform(mirror=mirror)
        box = drawing.bounds()
        shift = center - (box[:2] + box[2:]) / 2
        shoulder = joint * side + shift
    box = box + np.tile(shift, 2)
    item = Item("person", [drawing.transform(shift=shift)], box, box, cues=cues)
    return item, [Aim(shoulder, aim / np.linalg.norm(aim)) for aim in aims]


def _at(aims: Sequence[Aim], *targets: Item) -> list[Aim]:
    return [replace(aim, target=target) for aim, target in zip(aims, targets, strict=True)]


def _to_edge(shoulder: np.ndarray, target: np.ndarray) -> np.ndarray:
    """From the shoulder towards the target box's center, as far as its edge."""
    aim = (target[:2] + target[2:]) / 2 - shoulder
    half = (target[2:] - target[:2]) / 2
    share = np.min(half / np.maximum(np.abs(aim), 1e-6))  # of the way that is within the box
    return aim * (1 - min(share, 0.5))


def _add(scene: Scene, new: list[Item], aims: list[Aim], links: list) -> bool:
    """Add items that belong together if they fit and every arm's line stays clear."""
    if not all(_fits(scene, item) for item in new):
        return False
    if any(_overlap(a.clearance, b.clearance) > 2 * _OVERLAP for a, b in combinations(new, 2)):
        return False
    items = scene.items + new
    if not all(_is_clear(aim, items) for aim in scene.aims + aims):
        return False
    first = len(scene.items)
    scene.items, scene.aims = items, scene.aims + aims
    scene.pairs = scene.pairs + [(first + p, first + o, action) for p, o, action in links]
    return True


def _fits(scene: Scene, item: Item) -> bool:
    if item.clearance.min() < _MARGIN or item.clearance.max() > SIZE - _MARGIN:
        return False
    return all(_overlap(item.clearance, other.clearance) <= _OVERLAP for other in scene.items)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over the smaller box."""
    ax1, ay1, ax2, ay2 = a.tolist()
    bx1, by1, bx2, by2 = b.tolist()
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1))


def _is_clear(aim: Aim, items: Sequence[Item]) -> bool:
    """No object but the target near the arm's line, unless it is much farther away."""
    limit = np.inf
    if aim.target is not None:
        limit = 1.6 * np.linalg.norm(aim.target.center - aim.shoulder)
    for item in items:
        if item is aim.target or item.name == "person":
            continue
        offset = item.center - aim.shoulder
        distance = np.linalg.norm(offset)
        if distance < limit and offset @ aim.direction > distance * np.cos(np.radians(_CONE)):
            return False
    return True
