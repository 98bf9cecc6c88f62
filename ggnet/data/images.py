"""Reading image files of any kind into one form: RGB, 8 bits, upright."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ggnet.errors import UserError

MAX_PIXELS = Image.MAX_IMAGE_PIXELS  # Pillow's bound against decompression bombs
ORIENTATION = 0x0112  # EXIF's tag
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # formats whose frames have times; a TIFF's are pages
MAX_SIDE = 32767  # what OpenCV can warp


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Decode an image file to uint8 RGB of shape (H, W, 3), contiguous and writable.

    EXIF rotation is applied, so boxes drawn in any viewer fit. Grey, palette and CMYK images are
    converted; transparent pixels are composited on white, as a page shows them; 16-bit and float
    images are scaled to 8 bits; of an animation or a multi-page file the first frame is taken.

    Raises:
        UserError: no such file, no permission, not an image, truncated or corrupt, or larger than
            MAX_PIXELS or MAX_SIDE. The message names file and problem.
    """
    return next(read_frames(path, first=True))[0]


def read_frames(
    path: str | os.PathLike, first: bool = False
) -> Iterator[tuple[np.ndarray, float | None]]:
    """Every frame of an image file, as `read_image` decodes it, with its second in an animation.

    Args:
        first: the first one only.

    Yields:
        The image, and the seconds since the beginning; None where there is one frame only (or the
        format knows no time, as a TIFF's pages, of which the first is taken).

    Raises:
        UserError: as `read_image`; of a later frame too.
    """
    path = Path(path)
    with _decoding(path):
        file = Image.open(path)
    with file:
        animated = not first and file.format in ANIMATED and getattr(file, "is_animated", False)
        seconds = 0.0
        for index in range(file.n_frames if animated else 1):
            with _decoding(path):
                if animated:
                    file.seek(index)
                image = _decoded(file)
            yield image, seconds if animated else None
            seconds += file.info.get("duration", 0) / 1000


def decode_image(file: BinaryIO | Image.Image, name: str) -> np.ndarray:
    """As `read_image`, of an open file or an image that Pillow has.

    Args:
        name: what it is, for messages.

    Raises:
        UserError: as `read_image`.
    """
    with _decoding(name):
        if isinstance(file, Image.Image):
            return _decoded(file)
        with Image.open(file) as image:
            return _decoded(image)


def _decoded(image: Image.Image) -> np.ndarray:
    if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError  # its header says so: nothing is decoded
    image.load()
    return _to_rgb(image)


@contextmanager
def _decoding(source: Path | str) -> Iterator[None]:
    """What decoders raise becomes a UserError that names the source, a path or a description."""
    path = source if isinstance(source, Path) else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file's odd metadata concerns nobody
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
        return
    except UnidentifiedImageError:
        empty = path is not None and path.stat().st_size == 0
        problem = "the file is empty" if empty else "not an image in a known format"
    except FileNotFoundError:
        problem = "no such file"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        problem = (
            f"more than {MAX_PIXELS // 10**6} million pixels, or a side of more than {MAX_SIDE}; "
            "downscale it first"
        )
    except Exception as error:  # decoders fed with broken data raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        unreadable = path is not None and not os.path.isfile(path)
        problem = reason if unreadable else f"the image cannot be decoded ({reason})"
    raise UserError(f"cannot read {source}: {problem}")


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Width and height, upright, without decoding the pixels.

    Raises:
        UserError: not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.size[::-1] if _lies(image) else image.size
    except Exception as error:  # decoders fed with broken data raise nearly anything
        raise UserError(f"cannot read {path}: {error}") from None


def is_stored_lying(path: str | os.PathLike) -> bool:
    """Whether the file's width is the upright image's height, which its EXIF tag says.

    Raises:
        UserError: not an image.
    """
    try:
        with Image.open(path) as image:
            return _lies(image)
    except Exception as error:  # decoders fed with broken data raise nearly anything
        raise UserError(f"cannot read {path}: {error}") from None


def _lies(image: Image.Image) -> bool:
    return image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)


def _to_rgb(image: Image.Image) -> np.ndarray:
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        grey = _to_8_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF: the pixels are still good
        return image


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey of 16 bits, or float in [0, 1], by its full range; any other range is stretched."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = 0.0, 65535.0 if values.max() > 1 else 1.0
    if values.min() < 0 or values.max() > high:
        low, high = values.min(), values.max()
    return np.round((values - low) * (255 / (high - low))).astype(np.uint8)


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of files that Pillow can open, in small letters."""
    Image.init()
    formats = Image.registered_extensions().items()
    return frozenset(suffix for suffix, format_ in formats if format_ in Image.OPEN)


def image_files(folder: str | os.PathLike) -> tuple[list[Path], list[Path]]:
    """The files in a folder (not below it), sorted by name: images by their suffix, and others.

    Hidden files are left out.

    Raises:
        UserError: the folder cannot be read.
    """
    suffixes = image_suffixes()
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    files = [Path(folder) / name for name in names if not name.startswith(".")]
    files = [path for path in files if path.is_file()]
    images = [path for path in files if path.suffix.lower() in suffixes]
    return images, [path for path in files if path.suffix.lower() not in suffixes]
