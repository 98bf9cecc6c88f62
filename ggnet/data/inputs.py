"""Images to predict on, from wherever a user has them: files, folders, URLs, videos, memory."""

import glob
import io
import os
import re
import stat
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from ggnet.data.images import decode_image, image_files, image_suffixes, read_frames
from ggnet.errors import UserError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent; read when a video is first opened

VIDEOS = frozenset(
    [".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"]
)
LIST = ".txt"  # a file with a path a line
STREAMS = ("rtsp://", "rtmp://")
CAMERA = re.compile(r"camera:(\d+)")
MAX_BYTES = 256 << 20  # of a download
TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True, eq=False)
class Frame:
    """One image to predict on."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    name: str  # the file's path, the URL, or what it is in memory; for people
    index: int | None = None  # of a frame of a video or animation, from 0
    seconds: float | None = None  # since its beginning


class Input:
    """Something that gives frames: one, or those of a video.

    Attributes:
        name: path, URL or what it is in memory.
        stem, suffix: what its results are named after; of a file in a folder that was searched, the
            stem is the path below that folder.
    """

    def __init__(self, name: str, stem: str | None = None):
        path = PurePosixPath(urllib.parse.urlsplit(name).path if "://" in name else name)
        self.name, self.suffix = name, path.suffix
        self.stem = (path.stem if stem is None else stem).replace(":", "_") or "input"

    def frames(self) -> Iterator[Frame]:
        """The frames, decoded one by one.

        Raises:
            UserError: what is wrong with it; in the middle of a video too, after the frames that
                could be read.
        """
        raise NotImplementedError


class File(Input):
    """An image file; of an animation every frame."""

    def __init__(self, path: str | os.PathLike, stem: str | None = None):
        super().__init__(str(path), stem)
        self.path = Path(path)

    def frames(self) -> Iterator[Frame]:
        """See `Input`."""
        check_regular(self.path)
        for index, (image, seconds) in enumerate(read_frames(self.path)):
            if seconds is None:
                yield Frame(image, self.name)
            else:
                yield Frame(image, self.name, index, seconds)


class Video(Input):
    """A video file, stream or camera, through OpenCV."""

    def __init__(self, name: str, source: str | int, stem: str | None = None):
        super().__init__(name, stem)
        self.source = source

    def frames(self) -> Iterator[Frame]:
        """See `Input`."""
        is_file = isinstance(self.source, str) and "://" not in self.source
        if is_file:
            check_regular(Path(self.source))
        with _quiet():
            capture = cv2.VideoCapture(self.source)
        try:
            if not capture.isOpened():
                raise UserError(self._closed())
            rate = capture.get(cv2.CAP_PROP_FPS)
            expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if is_file else 0
            count = 0
            while True:
                with _quiet():
                    good, image = capture.read()
                if not good:
                    break
                seconds = count / rate if rate > 0 else None
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.name, count, seconds)
                count += 1
        finally:
            capture.release()
        # Some containers count a frame too many, or estimate.
        if count == 0 or count < 0.99 * expected - 1:
            raise UserError(
                f"{self.name} ends after frame {count} of {expected or 'an unknown number'}: it is "
                "cut short or damaged there. What came before is kept"
            )

    def _closed(self) -> str:
        if isinstance(self.source, int):
            return (
                f"no camera {self.source} can be opened; the machine's cameras are "
                f"{', '.join(sorted(glob.glob('/dev/video*'))) or 'none (no /dev/video*)'}"
            )
        if "://" in self.source:
            return f"cannot open the stream {self.name}; check the address and the network"
        return f"cannot read {self.name}: not a video that OpenCV can decode"


class Url(Input):
    """An image at an http or https address."""

    def frames(self) -> Iterator[Frame]:
        """See `Input`."""
        yield Frame(decode_image(io.BytesIO(download(self.name)), self.name), self.name)


class Memory(Input):
    """An image that is in memory already."""

    def __init__(self, image: np.ndarray, name: str):
        super().__init__(name)
        self.image = image

    def frames(self) -> Iterator[Frame]:
        """See `Input`."""
        yield Frame(self.image, self.name)


@dataclass(eq=False)
class Found:
    """What sources mean."""

    inputs: list[Input]
    passed_over: list[Path]  # files that are no images, by their suffix
    folders: list[Path]  # subfolders and links to folders that were not searched


def find_inputs(sources: Iterable[str | os.PathLike], *, recursive: bool = False) -> Found:
    """The images that a user's words mean; each file once.

    Args:
        sources: paths of images, videos, folders and list files (`.txt`: a source a line, relative
            to the list's folder), glob patterns, URLs, "camera:N".
        recursive: also search the folders in folders.

    Raises:
        UserError: there is no such file, or none of it is an image.
    """
    found = Found([], [], [])
    seen: set = set()
    sources = [os.fspath(source) for source in sources]
    for source in sources:
        for one in _expand(source, recursive, found):
            key = one.path.resolve() if isinstance(one, File) else one.name
            if key not in seen:
                seen.add(key)
                found.inputs.append(one)
    if not found.inputs:
        raise UserError(f"no images in {', '.join(sources)}{_hint(found, recursive)}")
    return found


def _hint(found: Found, recursive: bool) -> str:
    if found.folders and not recursive:
        folders = ", ".join(path.name for path in found.folders[:5])
        return f" itself; it has the folders {folders}: search them with --recursive"
    return "; expected files such as .jpg and .png, or a video"


def _expand(source: str, recursive: bool, found: Found) -> Iterator[Input]:
    if camera := CAMERA.fullmatch(source):
        yield Video(source, int(camera[1]))
    elif source.startswith(STREAMS):
        yield Video(source, source)
    elif source.startswith(("http://", "https://")):
        video = Path(source.partition("?")[0]).suffix.lower() in VIDEOS
        yield Video(source, source) if video else Url(source)
    elif "://" in source:
        raise UserError(f"cannot read {source}; expected http, https, rtsp or rtmp")
    elif (path := Path(source)).is_dir():
        yield from _folder(path, recursive, found)
    elif path.exists():
        yield from _file(path, recursive, found)
    elif glob.has_magic(source):
        matches = sorted(glob.glob(source, recursive=True))
        if not matches:
            raise UserError(f"no file matches {source}; check the pattern")
        for match in matches:
            if Path(match).is_dir():
                found.folders.append(Path(match))
            elif Path(match).suffix.lower() in image_suffixes() | VIDEOS:
                yield from _file(Path(match), recursive, found)
            else:
                found.passed_over.append(Path(match))
    else:
        raise UserError(f"no image or folder at {source}; check the path")


def _file(path: Path, recursive: bool, found: Found) -> Iterator[Input]:
    suffix = path.suffix.lower()
    if suffix == LIST:
        yield from _list(path, recursive, found)
    elif suffix == ".pdf":
        raise UserError(f"{path} is a PDF; turn its pages into images first (pdftoppm -png)")
    elif suffix in VIDEOS:
        yield Video(str(path), str(path))
    else:
        yield File(path)


def _folder(
    folder: Path, recursive: bool, found: Found, top: Path | None = None
) -> Iterator[Input]:
    top = top or folder
    images, others = image_files(folder)
    for path in sorted(images + others):
        stem = str(path.relative_to(top).with_suffix(""))
        if path.suffix.lower() in VIDEOS:
            yield Video(str(path), str(path), stem)
        elif path.suffix.lower() in image_suffixes():
            yield File(path, stem)
        else:
            found.passed_over.append(path)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        if recursive and not path.is_symlink():  # a link may lead back
            yield from _folder(path, recursive, found, top)
        else:
            found.folders.append(path)


def _list(path: Path, recursive: bool, found: Found) -> Iterator[Input]:
    check_regular(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"cannot read the list {path}: {reason}") from None
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if "://" not in line and not CAMERA.fullmatch(line):
            line = str(path.parent / line)
        if line.lower().endswith(LIST):
            raise UserError(f"{path}, line {number}: a list in a list; name the images themselves")
        try:
            yield from _expand(line, recursive, found)
        except UserError as error:
            raise UserError(
                f"{path}, line {number}: {error}. A {LIST} file lists images, a path a line"
            ) from None


def check_regular(path: Path) -> None:
    """Refuse what reading might wait for without end.

    Raises:
        UserError: a FIFO, socket or device.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever reads it says why
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
        raise UserError(f"{path} is {kind}; expected a file (a camera is camera:0)")


def download(url: str) -> bytes:
    """The content of an address.

    Raises:
        UserError: no answer, an error, or more than MAX_BYTES.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "ggnet"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            content = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise UserError(
            f"cannot read {url}: the server answers {error.code} {error.reason}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"cannot read {url}: {reason}. Check the address and the network, or download the file"
        ) from None
    if len(content) > MAX_BYTES:
        raise UserError(f"cannot read {url}: it has more than {MAX_BYTES >> 20} MB")
    return content


def as_inputs(source: Any) -> Iterator[Input]:
    """What a Python program may hand over: everything that `find_inputs` takes, and images in
    memory; of lists, tuples and iterators each in turn.

    - bytes: an encoded image file
    - PIL.Image.Image
    - NumPy array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; uint8, or float in 0..1
    - torch.Tensor: (3, H, W) or a batch (B, 3, H, W), of 1, 3 or 4 channels; uint8, or float 0..1

    Raises:
        UserError: none of these, or an array of another shape, dtype or range.
    """
    if isinstance(source, str | os.PathLike):
        yield from find_inputs([source]).inputs
    elif isinstance(source, bytes | bytearray):
        yield Memory(decode_image(io.BytesIO(source), "the bytes"), "bytes")
    elif isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "PIL image"
        yield Memory(decode_image(source, name), name)
    elif isinstance(source, np.ndarray):
        yield Memory(as_rgb(source), "array")
    elif isinstance(source, torch.Tensor):
        yield from _tensor(source)
    elif isinstance(source, Iterable) and not isinstance(source, dict):
        for number, item in enumerate(source):
            for one in as_inputs(item):
                if isinstance(one, Memory):
                    one.name = f"{one.name} {number}"
                yield one
    else:
        raise UserError(
            f"cannot predict on a {type(source).__name__}; expected a path, URL, bytes, PIL image, "
            "NumPy array, tensor, or several of them"
        )


def _tensor(tensor: torch.Tensor) -> Iterator[Input]:
    if tensor.dim() not in (3, 4) or tensor.shape[-3] not in (1, 3, 4):
        raise UserError(
            f"a tensor of shape {tuple(tensor.shape)} is no image; expected (3, H, W) or "
            "(B, 3, H, W), of 1, 3 or 4 channels (a NumPy array has its channels last)"
        )
    array = tensor.detach().cpu()
    array = (array.float() if array.is_floating_point() else array).numpy()
    for one in array if tensor.dim() == 4 else [array]:
        yield Memory(as_rgb(np.moveaxis(one, 0, -1)), "tensor")


def as_rgb(array: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of an image array; float values 0..1 are rounded to 255 steps.

    Raises:
        UserError: another shape, dtype or range.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(
            f"an array of shape {array.shape} is no image; expected (H, W), (H, W, 3) RGB or "
            "(H, W, 4) RGBA (a tensor has its channels first)"
        )
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise UserError(
                f"a {array.dtype} image must have values from 0 to 1, and this one has {low:g} to "
                f"{high:g}; for values up to 255 use .astype(np.uint8)"
            )
        array = np.round(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"an image of dtype {array.dtype}; expected uint8, or float from 0 to 1")
    if array.shape[2] == 1:
        array = array.repeat(3, axis=2)
    if array.shape[2] == 4:
        return decode_image(Image.fromarray(np.ascontiguousarray(array), "RGBA"), "array")
    return np.ascontiguousarray(array)


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV's own lines on stderr say less than ours."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
