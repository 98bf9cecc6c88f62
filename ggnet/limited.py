"""Reading a file that nobody vouches for: in a process of its own, with limits.

Decoders in C can crash on a changed byte, and a few bytes can ask for all the memory there is. Here
that ends the child, and the caller gets a message. The child answers in JSON and .npy, so that one
whom a file has taken over cannot do the same to its parent.
"""

import io
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.errors import UserError

MEMORY = 4 << 30  # bytes of address space
SECONDS = 300  # of processor time; twice that by the clock
_ARRAY = "array of the answer"


def call_limited(function: Callable[..., Any], path: str | Path, *arguments: Any) -> Any:
    """function(path, *arguments) in a child process.

    Args:
        function: of a module, by whose name the child finds it; returns arrays of numbers and what
            JSON can express, infinity and NaN included. Tuples arrive as lists.
        path: the file that is read, for the message.
        arguments: of plain values.

    Raises:
        UserError: the function raised one, or the child crashed or met a limit.
    """
    task = pickle.dumps((function, path, arguments))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command, input=task, capture_output=True, env=environment, timeout=2 * SECONDS
        )
        error, result = _decode(done.stdout)
    except subprocess.TimeoutExpired:
        raise _died(path, "it did not end") from None
    except Exception:  # it did not come to its answer
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise _died(path, lines[-1] if lines else f"status {done.returncode}") from None
    if error is not None:
        raise UserError(str(error))
    return result


def _died(path: str | Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be read: the decoder died of it ({reason}). It is corrupt, or asks for "
        f"more than {MEMORY >> 30} GiB or {SECONDS} s; download or make it again"
    )


def _child() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb")  # what the function prints goes elsewhere
    os.dup2(2, 1)
    function, path, arguments = pickle.load(sys.stdin.buffer)  # of the parent
    try:
        answer = None, function(path, *arguments)
    except UserError as error:
        answer = str(error), None
    out.write(_encode(answer))
    out.close()


def _encode(answer: Any) -> bytes:
    arrays: list[np.ndarray] = []

    def reference(value: Any) -> dict[str, int]:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} cannot be sent")
        arrays.append(value)
        return {_ARRAY: len(arrays) - 1}

    text = json.dumps(answer, default=reference).encode()
    file = io.BytesIO()
    np.savez(file, np.frombuffer(text, np.uint8), *arrays)
    return file.getvalue()


def _decode(content: bytes) -> Any:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:

        def resolve(values: dict[str, Any]) -> Any:
            return file[f"arr_{values[_ARRAY] + 1}"] if _ARRAY in values else values

        return json.loads(file["arr_0"].tobytes(), object_hook=resolve)


if __name__ == "__main__":
    _child()
