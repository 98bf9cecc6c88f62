"""Reading image files of any kind into one form: RGB, 8 bits, upright."""

import io
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ggnet.errors import UserError

MAX_PIXELS = Image.MAX_IMAGE_PIXELS  # Pillow's bound against decompression bombs
ORIENTATION = 0x0112  # EXIF's tag
LYING = (5, 6, 7, 8)  # its values for a width that is the upright image's height
JPEG = ("JPEG", "MPO")  # Pillow's names of it; MPO: several pictures
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # formats whose frames have times; a TIFF's are pages
MAX_SIDE = 32767  # what OpenCV can warp
JPEG_END = b"\xff\xd9"
# What libjpeg decodes to a fraction of the size, by leaving out high frequencies
REDUCTIONS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Decode an image file to uint8 RGB of shape (H, W, 3), contiguous and writable.

    EXIF rotation is applied, so boxes drawn in any viewer fit. Grey, palette and CMYK images are
    converted; transparent pixels are composited on white, as a page shows them; 16-bit and float
    images are scaled to 8 bits; of an animation or a multi-page file the first frame is taken.

    Raises:
        UserError: no such file, no permission, not an image, truncated or corrupt, or larger than
            MAX_PIXELS or MAX_SIDE. The message names file and problem.
    """
    with open_image(path) as image:
        return image.read()


@contextmanager
def open_image(path: str | os.PathLike) -> Iterator["StoredImage"]:
    """An image file with its header read: its size is known before its pixels are decoded.

    Raises:
        UserError: as `read_image`, here and while it is open.
    """
    path, started = Path(path), time.perf_counter()
    with _decoding(path):
        content = io.BytesIO(path.read_bytes())
        reading = time.perf_counter() - started
        file = Image.open(content)
    with file:
        yield StoredImage(path, file, reading)


class StoredImage:
    """See `open_image`.

    Attributes:
        seconds: what "reading" the file has taken, and "decoding" so far.
    """

    def __init__(self, path: Path, file: Image.Image, reading: float):
        self._path, self._file = path, file
        self.seconds = {"reading": reading, "decoding": 0.0}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        if self._file.format not in JPEG:  # others have their EXIF where they like
            return self._whole.shape[1::-1]
        return self._file.size[::-1] if _orientation(self._file) in LYING else self._file.size

    def read(self) -> np.ndarray:
        """The pixels; see `read_image`."""
        return self.read_reduced(1)[0]

    @cached_property
    def _whole(self) -> np.ndarray:
        return self._decode(1)[0]

    def read_reduced(self, reduction: int) -> tuple[np.ndarray, int]:
        """The pixels, where the format allows (JPEG) `reduction` (of `REDUCTIONS`) times smaller.

        Returns:
            The image, whose pixel i stands for the original's [i r, (i + 1) r], and r: `reduction`
            or less. They differ from the averages over these pixels by 1 of 255 in the mean.
        """
        return self._decode(reduction) if self._file.format in JPEG else (self._whole, 1)

    def _decode(self, reduction: int) -> tuple[np.ndarray, int]:
        started = time.perf_counter()
        with _decoding(self._path):
            decoded = _decoded(self._file, reduction)
        self.seconds["decoding"] += time.perf_counter() - started
        return decoded


def read_frames(path: str | os.PathLike) -> Iterator[tuple[np.ndarray, float | None]]:
    """Every frame of an image file, as `read_image` decodes it, with its second in an animation.

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
        animated = file.format in ANIMATED and getattr(file, "is_animated", False)
        seconds = 0.0
        for index in range(file.n_frames if animated else 1):
            with _decoding(path):
                if animated:
                    file.seek(index)
                image, _ = _decoded(file)
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
            return _decoded(file)[0]
        with Image.open(file) as image:
            return _decoded(image)[0]


def _decoded(image: Image.Image, reduction: int = 1) -> tuple[np.ndarray, int]:
    """The pixels and what they are reduced by, as `StoredImage.read_reduced`."""
    if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError  # its header says so: nothing is decoded
    if image.format in JPEG:
        if _orientation(image) > 1:  # a last pixel of less than a whole square may become the first
            reduction = math.gcd(reduction, *image.size)
        if (pixels := _decoded_jpeg(image, reduction)) is not None:
            return pixels, reduction
    image.load()
    return _to_rgb(image), 1


def _decoded_jpeg(image: Image.Image, reduction: int) -> np.ndarray | None:
    """By OpenCV, which takes two thirds of Pillow's time for the same pixels: libjpeg-turbo's.

    None where Pillow has to: CMYK, and files without an end, of which OpenCV would make a picture
    or not by its version.
    """
    loaded = not image.tile
    if image.mode not in ("L", "RGB") or loaded or image.tell() > 0:  # it means the first picture
        return None
    image.fp.seek(0)
    content = image.fp.read()
    if not content.endswith(JPEG_END):
        return None
    try:
        flags = REDUCTIONS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    expected = -(-image.height // reduction), -(-image.width // reduction), 3
    if pixels is None or pixels.shape != expected:
        return None
    return _turned(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), _orientation(image))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright by EXIF's orientation, as Pillow's exif_transpose does."""
    if orientation in LYING:
        pixels = cv2.transpose(pixels)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if flip is None else cv2.flip(pixels, flip)


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
    return image.getexif().get(ORIENTATION, 1) in LYING


def _orientation(image: Image.Image) -> int:
    """Of a JPEG; 1 is upright."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF: the pixels are still good
        return 1
    return value if value in range(1, 9) else 1  # a file may hold a text there


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
