"""Reading a file that nobody vouches for: in a process of its own, with limits.

Decoders in C can crash on a changed byte, and a few bytes can ask for all the memory there is. Here
that ends the child, and the caller gets a message.
"""

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ggnet.errors import UserError

MEMORY = 4 << 30  # bytes of address space
SECONDS = 300  # of processor time


def call_limited(function: Callable[..., Any], path: str | Path, *arguments: Any) -> Any:
    """function(path, *arguments) in a child process.

    Args:
        function: of a module, by whose name the child finds it.
        path: the file that is read, for the message.
        arguments: of plain values.

    Raises:
        UserError: the function raised one, or the child crashed or met a limit.
    """
    task = pickle.dumps((function, path, arguments))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=task, capture_output=True, env=environment, check=False)
    try:
        error, result = pickle.loads(done.stdout)
    except Exception:  # it did not come to its answer
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"status {done.returncode}"
        raise UserError(
            f"{path} cannot be read: the decoder died of it ({reason}). It is corrupt, or asks for "
            f"more than {MEMORY >> 30} GiB or {SECONDS} s; download or make it again"
        ) from None
    if error is not None:
        raise UserError(error)
    return result


def _child() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb")  # what the function prints goes elsewhere
    os.dup2(2, 1)
    function, path, arguments = pickle.load(sys.stdin.buffer)
    try:
        answer = None, function(path, *arguments)
    except UserError as error:
        answer = str(error), None
    pickle.dump(answer, out)
    out.close()


if __name__ == "__main__":
    _child()
