"""Any image file becomes upright 8-bit RGB, or an error that names file and problem."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ggnet.data.images import decode_image, image_size, open_image, read_image
from ggnet.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def rgb():
    """4 x 6: red above blue, one green pixel in the top left corner."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[:2], image[2:], image[0, 0] = RED, BLUE, GREEN
    return image


def test_rgb_png_is_read_exactly_and_can_be_written_to(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(image, rgb)
    image[0, 0] = 7


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_rotation_is_applied(tmp_path, rgb, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright(rgb))


def jpeg(image, **settings):
    """The file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(
    ("channels", "settings"),
    [((3,), {}), ((3,), {"subsampling": "4:2:2", "progressive": True}), ((), {})],
)
def test_jpeg_has_the_pixels_that_pillow_finds(tmp_path, channels, settings, orientation):
    """OpenCV reads them faster; both have libjpeg-turbo."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (33, 50, *channels), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(noise, exif=exif, **settings))
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    image = read_image(path)
    np.testing.assert_array_equal(image, expected)
    assert image.flags["C_CONTIGUOUS"]
    assert image.flags["WRITEABLE"]
    np.testing.assert_array_equal(decode_image(io.BytesIO(path.read_bytes()), "bytes"), expected)
    with Image.open(path) as file:
        file.load()  # by whoever hands it over
        np.testing.assert_array_equal(decode_image(file, "image"), expected)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("size", "reductions"), [((240, 320), (2, 4, 8)), ((242, 333), (1, 1, 1))])
def test_a_reduced_jpeg(tmp_path, size, reductions, orientation):
    """Its pixels are the averages over squares of the whole image's, counted from its corner."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    y, x = np.mgrid[: size[0], : size[1]] / 40
    waves = np.stack([np.sin(x + y), np.cos(x - 2 * y), np.sin(3 * x)], axis=2)
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg((127.5 + 127 * waves).astype(np.uint8), quality=98, exif=exif))
    upright = read_image(path)
    for wanted, expected in zip((2, 4, 8), reductions, strict=True):
        r = wanted if orientation == 1 else expected
        with open_image(path) as file:
            assert file.size == upright.shape[1::-1]
            small, reduction = file.read_reduced(wanted)
        height, width = upright.shape[:2]
        assert reduction == r
        assert small.shape == (-(-height // r), -(-width // r), 3)
        height, width = height // r, width // r  # of whole squares
        squares = upright[: height * r, : width * r].reshape(height, r, width, r, 3)
        assert np.abs(small[:height, :width] - squares.mean(axis=(1, 3))).mean() < 0.5 + 0.1 * r


def test_only_jpeg_is_reduced(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with open_image(tmp_path / "a.png") as file:
        image, reduction = file.read_reduced(2)
    assert reduction == 1
    np.testing.assert_array_equal(image, rgb)


def test_an_orientation_that_is_a_text_is_none(tmp_path, rgb):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x026\0\0\0\0\0\0\0"
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as file:
        assert file.getexif()[0x0112] == "6"
    assert read_image(tmp_path / "a.jpg").shape == rgb.shape


def test_broken_exif_does_not_lose_the_image(tmp_path, rgb):
    Image.fromarray(rgb).save(
        tmp_path / "a.jpg", quality=100, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
    )
    assert read_image(tmp_path / "a.jpg").shape == rgb.shape


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "CMYK", "YCbCr", "RGBA"])
def test_every_color_mode(tmp_path, rgb, mode):
    source = Image.fromarray(rgb)
    image = (source.convert("P") if mode == "PA" else source).convert(mode)
    path = tmp_path / ("a.png" if mode in ("P", "RGBA") else "a.tif")
    image.save(path)
    if mode in ("1", "L", "LA"):
        source = source.convert(mode).convert("RGB")
    np.testing.assert_allclose(read_image(path).astype(int), np.asarray(source, int), atol=2)


def test_transparent_pixels_are_white(tmp_path, rgb):
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image[0, 0], (255, 255, 255))
    np.testing.assert_allclose(image[0, 1], (255, 127, 127), atol=1)
    np.testing.assert_array_equal(image[0, 2], RED)


def test_transparent_palette_color_is_white(tmp_path, rgb):
    palette = Image.fromarray(rgb).convert("P")
    palette.save(tmp_path / "a.png", transparency=palette.getpixel((0, 0)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0, 0], (255, 255, 255))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_keeps_its_range(tmp_path, name):
    grey = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name)[0, :, 0], [0, 1, 128, 255])


def test_float_grey(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1, np.nan]], np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0, :, 1], [0, 128, 255, 0])
    Image.fromarray(np.array([[0.5, 1]], np.float32)).save(tmp_path / "c.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif")[0, :, 1], [128, 255])
    Image.fromarray(np.array([[-10, 0, 10]], np.float32)).save(tmp_path / "b.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif")[0, :, 1], [0, 128, 255])


def test_grey_beyond_16_bits_is_stretched(tmp_path):
    Image.fromarray(np.array([[0, 20_000, 80_000]], np.int32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0, :, 1], [0, 64, 255])


def test_first_frame_of_an_animation(tmp_path, rgb):
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif"), rgb)


def truncated(rgb):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()[:1500]


def png(rgb):
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda rgb: b"", "the file is empty"),
        (lambda rgb: b"dear diary", "not an image in a known format"),
        (truncated, "cannot be decoded .*truncated"),
        (lambda rgb: png(rgb)[:60], "cannot be decoded"),
        (lambda rgb: png(rgb).replace(b"IDAT", b"IDAT\0\0"), "cannot be decoded"),
    ],
)
def test_broken_files_are_named(tmp_path, rgb, content, problem):
    (tmp_path / "broken.jpg").write_bytes(content(rgb))
    with pytest.raises(UserError, match=rf"cannot read .*broken\.jpg: .*{problem}"):
        read_image(tmp_path / "broken.jpg")


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jpg: no such file"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match=r"(?i)is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize(("width", "allowed"), [(50, True), (51, False)])
def test_an_image_may_have_as_many_pixels_as_the_bound(tmp_path, monkeypatch, width, allowed):
    monkeypatch.setattr("ggnet.data.images.MAX_PIXELS", 2000)
    Image.new("RGB", (width, 40)).save(tmp_path / "a.png")
    if allowed:
        assert read_image(tmp_path / "a.png").shape == (40, 50, 3)
    else:
        with pytest.raises(UserError, match="million pixels"):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("width", "height"), [(30000, 30000), (1, 80_000_000), (40000, 1)])
def test_decompression_bomb_is_refused(tmp_path, width, height):
    header = bytearray(png(np.zeros((1, 1, 3), np.uint8)))
    header[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")  # in 70 bytes
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(header)
    with pytest.raises(UserError, match=r"bomb\.png: more than 89 million pixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_size_without_decoding(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[1::-1]
    (tmp_path / "b.jpg").write_bytes(b"dear diary")
    with pytest.raises(UserError, match=r"cannot read .*b\.jpg"):
        image_size(tmp_path / "b.jpg")
