"""What can happen in a scene: cues, states, the verbs that they decide, and how often.

A person's cue and an object's state together decide the verb (`TABLE`). A person may show an arm
cue and a leg cue at once and then does two things to the object. Each verb has its place in the
picture (`LAYOUT`), shared by two verbs, so that the place alone never tells the verb.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

NAME = "scenes"

ARM_UP, ARM_BACK, LEG_BACK, KNEEL = CUES = ("arm up", "arm back", "leg back", "kneel")
REST, MOVING, CHANGED = STATES = ("rest", "moving", "changed")

# cue -> verb for each of STATES
TABLE = {
    ARM_UP: ("lift", "catch", "show"),
    ARM_BACK: ("throw", "dodge", "carry"),
    LEG_BACK: ("kick", "jump over", "step over"),
    KNEEL: ("push", "stop", "inspect"),
}
CUE_STATE = {
    verb: (cue, state)
    for cue, verbs in TABLE.items()
    for state, verb in zip(STATES, verbs, strict=True)
}
VERBS = tuple(sorted(CUE_STATE))

# Two cues that one person can show at once; the two verbs share a layout.
PARTNER = {ARM_UP: KNEEL, KNEEL: ARM_UP, ARM_BACK: LEG_BACK, LEG_BACK: ARM_BACK}

# verb -> (elevation of the object seen from the person in degrees, distance of the box centers in
# pixels of a 128-pixel picture for an object of 18 pixels). Neither the cue nor the state alone
# decides it.
LAYOUT = {
    "lift": (-40, 32),
    "push": (-40, 32),
    "throw": (0, 44),
    "kick": (0, 44),
    "catch": (30, 56),
    "stop": (30, 56),
    "dodge": (-25, 50),
    "jump over": (-25, 50),
    "show": (0, 34),
    "inspect": (0, 34),
    "carry": (38, 38),
    "step over": (38, 38),
}

# object -> its verbs, the most frequent first
OBJECT_VERBS = {
    "ball": ("kick", "throw", "catch", "stop", "dodge", "inspect", "step over"),
    "bicycle": ("push", "lift", "step over", "carry", "stop", "dodge", "inspect"),
    "umbrella": ("carry", "show", "inspect", "lift", "catch", "dodge", "throw"),
    "dog": ("stop", "catch", "jump over", "dodge", "lift", "push", "show", "inspect"),
    "book": ("show", "inspect", "catch", "dodge", "throw", "lift", "carry", "step over"),
    "laptop": ("inspect", "show", "lift", "push", "catch", "dodge", "carry"),
    "cup": ("step over", "carry", "throw", "kick", "catch", "stop", "lift", "show"),
    "suitcase": ("jump over", "dodge", "push", "lift", "kick", "carry", "stop", "inspect"),
}
OBJECTS = tuple(OBJECT_VERBS)
# (verb, object), the most frequent first: every object's first two verbs, then its next two, ...
HOIS = tuple(
    (verb, object_)
    for rank in range(0, max(map(len, OBJECT_VERBS.values())), 2)
    for object_, verbs in OBJECT_VERBS.items()
    for verb in verbs[rank : rank + 2]
)


@dataclass(frozen=True)
class Action:
    """What one person does to one object: one verb, or two where the person shows two cues."""

    object: str
    state: str
    cues: tuple[str, ...]

    @property
    def verbs(self) -> tuple[str, ...]:
        return verbs_of(self.object, self.state, self.cues)


def verbs_of(object_: str, state: str, cues: tuple[str, ...]) -> tuple[str, ...]:
    """The verbs of a person with these cues who is at such an object."""
    verbs = (TABLE[cue][STATES.index(state)] for cue in cues)
    return tuple(verb for verb in verbs if verb in OBJECT_VERBS[object_])


def hoi_frequencies(balanced: bool) -> np.ndarray:
    """(HOIs,) shares that sum to 1: equal, or Zipf-Mandelbrot with a tail as long as HICO-DET's.

    The top tenth of the HOIs holds about 56 % of the instances (HICO-DET: 58 %).
    """
    rank = np.arange(1, len(HOIS) + 1)
    weights = np.ones(len(HOIS)) if balanced else (rank + 6.0) ** -2.2
    return weights / weights.sum()


@cache
def _actions() -> tuple[Action, ...]:
    singles = [Action(object_, CUE_STATE[verb][1], (CUE_STATE[verb][0],)) for verb, object_ in HOIS]
    doubles = []
    for single in singles:
        (cue,) = single.cues
        double = Action(single.object, single.state, (cue, PARTNER[cue]))
        if cue in (ARM_UP, ARM_BACK) and len(double.verbs) == 2:
            doubles.append(double)
    return tuple(singles + doubles)


def deck(pairs: int, balanced: bool, rng: np.random.Generator) -> list[Action]:
    """`pairs` actions in random order whose verbs follow `hoi_frequencies` almost exactly.

    Two verbs at once take up to 70 % of the rarer one's instances; single verbs get the rest.
    """
    actions = _actions()
    index = {hoi: i for i, hoi in enumerate(HOIS)}
    frequencies = hoi_frequencies(balanced)
    weights = np.concatenate([frequencies, np.zeros(len(actions) - len(HOIS))])
    for i, action in enumerate(actions[len(HOIS) :], len(HOIS)):
        members = [index[verb, action.object] for verb in action.verbs]
        weights[i] = 0.7 * frequencies[members].min()
        weights[members] -= weights[i]
    # systematic sampling: every count is its expectation rounded up or down
    bounds = np.cumsum(weights) / weights.sum() * pairs
    picks = np.searchsorted(bounds, np.arange(pairs) + rng.random(), side="right")
    return [actions[i] for i in rng.permutation(np.minimum(picks, len(actions) - 1))]
