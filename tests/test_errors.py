"""Whatever a reader raises ends in a message; what a child answers cannot run code."""

import io
import json
import os
import pickle
import time

import numpy as np
import pytest

from ggnet import limited
from ggnet.errors import UserError, reader
from ggnet.limited import call_limited


@reader("a list")
def read(path, error):
    raise error


@pytest.mark.parametrize(
    "error", [ValueError("odd"), KeyError("a"), RecursionError(), MemoryError(), AssertionError()]
)
def test_what_nobody_has_thought_of_is_a_message(error):
    message = f"x.json cannot be read .{type(error).__name__}.*a list"
    with pytest.raises(UserError, match=message) as caught:
        read("x.json", error)
    assert caught.value.__cause__ is error
    with pytest.raises(UserError, match=message):
        read(path="x.json", error=error)


def test_messages_and_missing_packages_pass():
    with pytest.raises(UserError, match="^mine$"):
        read("x.json", UserError("mine"))
    with pytest.raises(ImportError):
        read("x.json", ImportError("scipy"))
    with pytest.raises(KeyboardInterrupt):
        read("x.json", KeyboardInterrupt())
    with pytest.raises(UserError, match="cannot read x.json: No space left"):
        read("x.json", OSError(28, "No space left on device"))


@pytest.fixture(autouse=True)
def children_find_this_module(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def give(path, what):
    """Runs in the child."""
    if what == "values":
        return ("a", {"b": [1, None, float("inf")]}, np.arange(6.0).reshape(2, 3), np.array(["ü"]))
    if what == "refuse":
        raise UserError(f"{path} is bad")
    if what == "crash":
        os.abort()
    if what == "wait":
        time.sleep(60)
    if what == "object":
        return np.array([print], dtype=object)
    return {"a set": {1}}


def test_a_child_gives_values_and_arrays():
    text, nested, array, texts = call_limited(give, "x", "values")
    assert (text, nested) == ("a", {"b": [1, None, float("inf")]})
    np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3))
    assert texts.tolist() == ["ü"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("refuse", "^x is bad$"),
        ("crash", "the decoder died of it"),
        ("object", "the decoder died of it"),
        ("set", "the decoder died of it .*set cannot be sent"),
    ],
)
def test_a_child_that_fails(what, message):
    with pytest.raises(UserError, match=message):
        call_limited(give, "x", what)


def test_a_child_that_does_not_end(monkeypatch):
    monkeypatch.setattr(limited, "SECONDS", 1)
    with pytest.raises(UserError, match="it did not end"):
        call_limited(give, "x", "wait")


class Malicious:
    def __reduce__(self):
        return os.abort, ()


@pytest.mark.parametrize("form", ["pickle", "npz", "text"])
def test_an_answer_cannot_run_code(monkeypatch, form):
    """What a child would send that a file had taken over."""
    content = {
        "pickle": pickle.dumps((None, Malicious())),
        "text": json.dumps([None, 1]).encode(),
    }
    if form == "npz":
        file = io.BytesIO()
        np.savez(file, np.array([Malicious()], dtype=object))
        content["npz"] = file.getvalue()

    class Done:
        stdout, stderr, returncode = content[form], b"", 0

    monkeypatch.setattr(limited.subprocess, "run", lambda *_, **__: Done)
    with pytest.raises(UserError, match="the decoder died of it"):
        call_limited(give, "x", "values")
