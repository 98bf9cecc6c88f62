"""What torch.compile is told about a function without importing the compiler."""

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)


def constant_when_traced(function: F) -> F:
    """Dynamo calls the function while it traces, and takes the answer as a constant.

    torch.compiler.assume_constant_result, which imports all of Dynamo (as long again as torch
    itself) to set this one attribute.
    """
    function._dynamo_marked_constant = True
    return function
