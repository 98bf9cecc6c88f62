"""The one exception for foreseeable problems with what the user gave."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class UserError(Exception):
    """A missing or corrupt file, a bad configuration, a full disk: no bug, so no traceback.

    The message says what was wrong, what was expected and what to do. The command line prints it
    and exits with status 2.
    """


@contextmanager
def reading(path: str | os.PathLike, expected: str) -> Iterator[None]:
    """Whatever is raised for the content of a file, as a UserError; see `reader`."""
    try:
        yield
    except (UserError, ImportError):  # the latter is of a missing package
        raise
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; expected {expected}"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {reason}); expected {expected}. If it "
            "is such a file, please report this"
        ) from error


def reader(expected: str) -> Callable[[Callable], Callable]:
    """Decorates a function that reads the file in its first argument.

    A reader says what is wrong with a file where it can. For broken data, though, parsers and
    arithmetic raise nearly anything: what nobody has thought of becomes a UserError that names the
    file and what was expected, with the original as its cause.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def read(*arguments: Any, **options: Any) -> Any:
            path, *_ = arguments or options.values()
            with reading(path, expected):
                return function(*arguments, **options)

        return read

    return decorate
