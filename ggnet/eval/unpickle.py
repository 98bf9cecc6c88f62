"""Reading a pickle of numbers, texts, lists and dicts that somebody else made.

A pickle is a program. This one may build plain values and NumPy arrays of numbers, in the few ways
in which NumPy itself writes them; NumPy's own functions are not called with what the file says, as
they would take an address from it (arrays of objects) or crash.
"""

import math
import pickle
import re
from typing import Any, BinaryIO

import numpy as np

NUMBERS = re.compile(r"[<>=|]?[biufc?]\d{0,2}")  # names of number types, as in "<f8"


def load_plain(file: BinaryIO) -> Any:
    """Unpickle, of Python 2 or 3; an array comes as something that `np.asarray` takes.

    Raises:
        Exception: nearly any, for a broken file; `pickle.UnpicklingError` where it wants to load
            anything else.
    """
    return _Unpickler(file, encoding="latin1").load()


class _Type:
    """A number type being built: `numpy.dtype` of a checked name, then its byte order."""

    def __init__(self, name: Any, *_flags: Any):
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of {name!r} is not of numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"{order!r} is not a byte order")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array being built: empty, then shape, type and bytes."""

    def __init__(self, *_arguments: Any):
        self.values = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _version, shape, type_, columns_first, data = state
        self.values = _array(data, type_, shape, "F" if columns_first else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values.astype(dtype or self.values.dtype)


def _array(data: Any, type_: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(type_, _Type):
        raise pickle.UnpicklingError(f"{type_!r} is not a type of numbers")
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin1")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if math.prod(shape) * type_.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"{len(data)} bytes for an array of {shape}")
    return np.frombuffer(bytes(data), type_.dtype).reshape(shape, order=order)


def _scalar(type_: Any, data: Any) -> Any:
    return _array(data, type_, ()).item()


def _bytes(text: str = "", _encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how Python writes bytes in protocols below 3


_MULTIARRAY = {"_reconstruct": _Array, "scalar": _scalar}
_ALLOWED = {
    "__builtin__": {"bytes": _bytes},
    "_codecs": {"encode": _bytes},
    "numpy": {"dtype": _Type, "ndarray": None},  # the latter is only passed along
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core.numeric": {"_frombuffer": _array},
    "numpy._core.numeric": {"_frombuffer": _array},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, {}):
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which is not allowed")
        function = _ALLOWED[module][name]
        # A new one each time: a pickle can set attributes of what it gets.
        return function and (lambda *arguments: function(*arguments))
