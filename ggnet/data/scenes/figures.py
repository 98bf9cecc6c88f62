"""Articulated people: a head, a torso, arms and legs of two segments, a pose made of cues."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ggnet.data.scenes.recipe import ARM_BACK, ARM_UP, KNEEL, LEG_BACK
from ggnet.data.scenes.shapes import INK, Color, Drawing, Shape, disc, polygon, shade, stroke

SKIN = ((255, 219, 184), (240, 190, 150), (214, 155, 112), (164, 109, 72), (115, 74, 52))
HAIR = ((48, 36, 32), (92, 58, 36), (170, 110, 50), (222, 184, 96), (120, 120, 128), (150, 60, 40))
CLOTHES = (
    (226, 74, 70),
    (240, 148, 58),
    (246, 202, 78),
    (98, 174, 96),
    (58, 150, 160),
    (70, 116, 196),
    (128, 94, 178),
    (222, 116, 158),
    (240, 236, 226),
    (96, 104, 120),
)
SHOES = ((60, 52, 60), (140, 64, 52), (236, 232, 224))

# Lengths as shares of the standing height
HEAD, LIMB, TORSO, ARM, LEG = 0.115, 0.085, 0.31, 0.185, 0.215

# Angles in degrees, 0 = down, 90 = where the person faces, 180 = up, -90 = behind
_ARM = {None: (-6, 14), ARM_UP: (-128, -166), ARM_BACK: (-70, -98)}
_LEGS = {  # (thigh, shin) of the standing leg and of the leg behind
    None: ((9, 4), (-10, -14)),
    LEG_BACK: ((8, 0), (-52, -98)),
    KNEEL: ((82, 0), (-12, -96)),
}
_LEAN = {ARM_UP: 3.0, ARM_BACK: -7.0, LEG_BACK: 9.0, KNEEL: 5.0}  # of the torso, forwards

Joints = tuple[complex, complex, complex]


@dataclass(frozen=True)
class Look:
    """Colors; they mean nothing."""

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    short_sleeves: bool


def random_look(rng: np.random.Generator) -> Look:
    shirt, trousers = rng.choice(len(CLOTHES), 2, replace=False)
    return Look(
        SKIN[rng.integers(len(SKIN))],
        HAIR[rng.integers(len(HAIR))],
        CLOTHES[shirt],
        shade(CLOTHES[trousers], 0.72),
        SHOES[rng.integers(len(SHOES))],
        bool(rng.random() < 0.5),
    )


def person(
    height: float,
    cues: Sequence[str],
    aims: Sequence[tuple[float, float]],
    look: Look,
    sway: Sequence[float] = (0.0, 0.0, 0.0),
) -> tuple[Drawing, np.ndarray]:
    """A person who faces right; the hip is at [0, 0].

    Args:
        height: standing height in pixels.
        cues: at most one arm cue (the arm behind) and one leg cue.
        aims: for each arm held forward: direction (degrees as above) and how far the hand goes
            in pixels; none: the front arm hangs down. Two aims leave no arm for an arm cue.
        sway: small random angles (degrees) of the torso, the arm behind and the leg behind.

    Returns:
        The drawing, and the shoulder's position [x, y].
    """
    if len(aims) > 2 or (len(aims) == 2 and (ARM_UP in cues or ARM_BACK in cues)):
        raise ValueError(f"{len(aims)} aiming arms do not go with the cues {list(cues)}")
    limb, arm, leg = LIMB * height, ARM * height, LEG * height
    arm_cue = next((cue for cue in cues if cue in _ARM), None)
    leg_cue = next((cue for cue in cues if cue in _LEGS), None)
    lean = sway[0] + _LEAN.get(arm_cue, 0.0) + _LEAN.get(leg_cue, 0.0)
    spine = _direction(180 - lean)
    shoulder = spine * TORSO * height
    head = shoulder + spine * (HEAD + 0.055) * height

    if len(aims) == 2:
        joints = _reach(shoulder, *aims[1], arm)
    else:
        joints = _chain(shoulder, _ARM[arm_cue], arm, sway[1] if arm_cue else 0.0)
    shapes = _arm(joints, limb, look, dark=True)
    front, back = _LEGS[leg_cue]
    joints = _chain(0j, back, leg, sway[2] if leg_cue == LEG_BACK else 0.0)
    shapes += _leg(joints, limb, shade(look.trousers, 0.85), look.shoes)
    shapes += _leg(_chain(0j, front, leg), limb, look.trousers, look.shoes)
    shapes += _torso(spine, shoulder, height, look.shirt)
    shapes += _head(head, HEAD * height, look)
    joints = _reach(shoulder, *aims[0], arm) if aims else _chain(shoulder, (4, 22), arm)
    shapes += _arm(joints, limb, look)
    return Drawing(shapes), np.array([shoulder.real, shoulder.imag])


# Within a figure a point is a complex number, x + y j: quick to add, turn and scale.


def _direction(angle: float) -> complex:
    return complex(math.sin(math.radians(angle)), math.cos(math.radians(angle)))


def _chain(start: complex, angles: Sequence[float], length: float, turn: float = 0.0) -> Joints:
    """Two segments: the joints at the start, in the middle and at the end."""
    middle = start + _direction(angles[0] + turn) * length
    return start, middle, middle + _direction(angles[1] + turn) * length


def _reach(shoulder: complex, angle: float, distance: float, arm: float) -> Joints:
    """The arm's joints with the hand at `distance` (as far as it goes), the elbow low."""
    bend = math.degrees(math.acos(min(max(distance / (2 * arm), 0.3), 0.99)))
    return _chain(shoulder, (angle - bend, angle + bend), arm)


def _arm(joints: Joints, limb: float, look: Look, dark: bool = False) -> list[Shape]:
    sleeve = shade(look.shirt, 0.8 if dark else 0.92)
    lower = look.skin if look.short_sleeves else sleeve
    return [
        stroke(joints[1:], lower, limb * 0.85),
        stroke(joints[:2], sleeve, limb * 0.95),
        disc(joints[2], limb * 0.55, look.skin),
    ]


def _leg(joints: Joints, limb: float, color: Color, shoes: Color) -> list[Shape]:
    shin = joints[2] - joints[1]
    toe = -1j * shin / abs(shin)  # a right angle, forwards
    return [
        stroke(joints[1:], color, limb),
        stroke(joints[:2], color, limb * 1.1),
        stroke([joints[2], joints[2] + toe * limb * 0.9], shoes, limb * 0.85),
    ]


def _torso(spine: complex, shoulder: complex, height: float, color: Color) -> list[Shape]:
    across, along = 1j * spine * height, spine * height
    return [
        polygon(
            [
                shoulder + 0.03 * along - 0.05 * across,
                shoulder + 0.03 * along + 0.05 * across,
                shoulder - 0.03 * along + 0.085 * across,
                -0.03 * along + 0.068 * across,
                -0.03 * along - 0.068 * across,
                shoulder - 0.03 * along - 0.085 * across,
            ],
            color,
        )
    ]


def _head(center: complex, radius: float, look: Look) -> list[Shape]:
    return [
        disc(center, radius, look.hair),
        disc(center + (0.28 + 0.16j) * radius, radius * 0.76, look.skin, outlined=False),
        disc(center + (0.62 + 0.02j) * radius, radius * 0.14, INK, outlined=False),
    ]
