"""Broken files out of good ones: of their structure, and of their bytes."""

import copy
import json
import math
from random import Random
from typing import Any

NUMBERS = [
    *(0, 1, -1, 2, 7, 255, 2**31, -(2**31) - 1, 2**63, 2**64, 10**30, -(10**400)),
    *(0.5, 2.7, -0.0, 1e-320, 1e19, 1e308, -1e308, math.nan, math.inf, -math.inf),
]
TEXTS = [
    *("", " ", "a", "1", "12\n", "-1", "nan", "1e999", "person", "\0", "a\0b", "\ud800", "\udcff"),
    *(
        "é" * 300,
        "x" * 5000,
        "/",
        "..",
        "../../etc/passwd",
        "/dev/zero",
        "%s{}",
        "人骑马",
        "\u202e",
    ),
]
OTHERS = [None, True, False, [], {}, [[]], [None], [1, 2, 3, 4], [math.nan] * 4, {"a": {"b": []}}]
DEEP = 100_000  # brackets in each other


def odd_value(rng: Random) -> Any:
    """A number, text or container that no file should have there."""
    return copy.deepcopy(rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS))))


def mutate(value: Any, rng: Random) -> Any:
    """A copy of nested lists and dicts, changed in one to three places."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        value = _change(value, rng)
    return value


def _change(value: Any, rng: Random) -> Any:
    places = list(_places(value))
    if not places or rng.random() < 0.02:
        return odd_value(rng)
    holder, key = rng.choice(places)
    action = rng.choice(("odd", "odd", "drop", "twice", "swap", "nest", "number", "rename"))
    old = holder[key]
    if action == "drop":
        del holder[key]
    elif action == "twice" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(old))
    elif action == "swap":
        other, elsewhere = rng.choice(places)
        holder[key] = copy.deepcopy(other[elsewhere])
    elif action == "nest":
        holder[key] = [old] if rng.random() < 0.5 else {str(key): old}
    elif action == "number" and isinstance(old, int | float) and abs(old) < 1e300:
        holder[key] = rng.choice((-old, old + 1, old - 1, old * 1000, old / 3, str(old)))
    elif action == "rename" and isinstance(holder, dict):
        holder[rng.choice((str(key).upper(), f"{key} ", f"{key}s", ""))] = holder.pop(key)
    else:
        holder[key] = odd_value(rng)
    return value


def _places(value: Any):
    """(container, key) of everything in it."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def mutate_bytes(content: bytes, rng: Random) -> bytes:
    """A copy with bits flipped, parts cut, repeated, overwritten or inserted."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 1, 2, 4, 16, 256)), len(data) - at)
        action = rng.choice(("flip", "flip", "cut", "end", "twice", "write", "insert", "zero"))
        if action == "flip" and length:
            data[at] ^= 1 << rng.randrange(8)
        elif action == "cut":
            del data[at : at + length]
        elif action == "end":
            del data[at:]
        elif action == "twice":
            data[at:at] = data[at : at + length]
        elif action == "write":
            data[at : at + length] = rng.randbytes(length)
        elif action == "insert":
            data[at:at] = rng.choice((b"\xff\xfe", b"\0", b"\xef\xbb\xbf", b"9" * 5000, b"[", b'"'))
        else:
            data[at : at + length] = bytes(length)
    return bytes(data)


def mutate_json(content: bytes, rng: Random) -> bytes:
    """JSON of another structure, or text that is hardly JSON."""
    kind = rng.random()
    if kind < 0.8:
        return json.dumps(mutate(json.loads(content), rng)).encode()
    if kind < 0.82:
        return rng.choice((b"[", b'{"a":')) * DEEP
    return mutate_bytes(content, rng)
