"""A MATLAB file (version 5) of one cell array, most of whose millions of cells are empty.

SciPy takes minutes for these; here an empty cell is the same few bytes each time. The format is
that of "MAT-File Format" (The MathWorks); uncompressed, the bytes are those that SciPy writes.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np

# Types of data elements, and classes of arrays.
_INT8, _INT32, _UINT32, _DOUBLE, _MATRIX, _COMPRESSED = 1, 5, 6, 9, 14, 15
_CELL_CLASS, _DOUBLE_CLASS = 1, 6
_MOST = 2**31  # bytes of an array that MATLAB reads from such a file


def write_cells(
    file: IO[bytes],
    name: str,
    shape: tuple[int, int],
    cells: Mapping[tuple[int, int], np.ndarray],
    columns: int,
) -> None:
    """Write a cell array of matrices.

    Args:
        file: open for writing.
        name: of the variable.
        shape: of the cell array.
        cells: (row, column) -> (n, columns) float64; cells that are not there are (0, columns).

    Raises:
        ValueError: the array would be larger than such a file can hold.
    """
    empty = _matrix(np.zeros((0, columns)))
    filled = {index: _matrix(rows) for index, rows in cells.items()}
    head = _head(_CELL_CLASS, shape, name.encode())
    count = shape[0] * shape[1] - len(filled)
    size = len(head) + count * len(empty) + sum(map(len, filled.values()))
    if size >= _MOST:
        raise ValueError(f"{name} would take {size / 2**30:.1f} GiB; expected less than 2")
    compressor, parts = zlib.compressobj(1), []
    for piece in _pieces(struct.pack("<II", _MATRIX, size) + head, shape, filled, empty):
        parts.append(compressor.compress(piece))
    parts.append(compressor.flush())
    file.write(b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + struct.pack("<H2s", 0x0100, b"IM"))
    file.write(struct.pack("<II", _COMPRESSED, sum(map(len, parts))))
    file.writelines(parts)


def _pieces(
    head: bytes, shape: tuple[int, int], filled: Mapping[tuple[int, int], bytes], empty: bytes
) -> Iterator[bytes]:
    """The array's bytes, column by column."""
    yield head
    for column in range(shape[1]):
        yield b"".join(filled.get((row, column), empty) for row in range(shape[0]))


def _matrix(rows: np.ndarray) -> bytes:
    numbers = _element(_DOUBLE, rows.astype("<f8").tobytes(order="F"))
    return _element(_MATRIX, _head(_DOUBLE_CLASS, rows.shape, b"") + numbers)


def _head(class_: int, shape: tuple[int, int], name: bytes) -> bytes:
    flags = _element(_UINT32, struct.pack("<II", class_, 0))
    return flags + _element(_INT32, struct.pack("<ii", *shape)) + _element(_INT8, name)


def _element(type_: int, data: bytes) -> bytes:
    return struct.pack("<II", type_, len(data)) + data + bytes(-len(data) % 8)
