import os
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nonlocalnn.data import read_image
from tolerances import assert_near


def save_image(path, value=100):
    Image.new("RGB", (7, 5), (value, value, value)).save(path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif", "webp", "jpg"])
def test_read_image_formats(tmp_path, suffix, channels):
    save_image(tmp_path / f"a.{suffix}", value=102)
    image = read_image(tmp_path / f"a.{suffix}", image_size=None, channels=channels)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    tolerance = 0.02 if suffix in ("jpg", "webp") else 1e-6
    torch.testing.assert_close(image, torch.full((channels, 5, 7), 0.4), rtol=0, atol=tolerance)


def test_read_image_keeps_rows_columns_and_channels_apart(tmp_path):
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(str(tmp_path / "a.png"), image_size=None, channels=3)
    assert_near(image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def test_read_image_grey_is_luma(tmp_path):
    Image.new("RGB", (7, 5), (255, 0, 0)).save(tmp_path / "red.png")
    image = read_image(tmp_path / "red.png", image_size=None, channels=1)
    torch.testing.assert_close(image, torch.full((1, 5, 7), 0.299), rtol=0, atol=1 / 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_read_image_modes(tmp_path, mode, channels):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("RGB", (7, 5), "white").convert(mode).save(path)
    try:
        with Image.open(path) as written:
            written.load()
    except OSError:
        pytest.skip(f"this Pillow cannot read the {mode} that it wrote")
    image = read_image(path, image_size=None, channels=channels)
    torch.testing.assert_close(image, torch.ones(channels, 5, 7), rtol=0, atol=0.01)


@pytest.mark.parametrize(("alpha", "expected"), [(0, 1.0), (255, 0.0), (51, 0.8)])
def test_read_image_lays_transparency_over_white(tmp_path, alpha, expected):
    Image.new("RGBA", (7, 5), (0, 0, 0, alpha)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", image_size=None, channels=3)
    assert_near(image, torch.full((3, 5, 7), expected))


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])], ids=["one colour", "alpha per colour"])
def test_read_image_of_a_palette_with_transparency(tmp_path, transparency):
    image = Image.new("P", (7, 5), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=transparency)
    assert_near(read_image(tmp_path / "a.png", image_size=None, channels=3), torch.ones(3, 5, 7))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_read_image_keeps_16_bits(tmp_path, suffix, channels):
    values = np.array([[0, 1, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}", image_size=None, channels=channels)
    expected = torch.from_numpy(values.astype(np.float32)) / 65535
    assert_near(image, expected.expand(channels, 1, 5))


def write_12_bits(path, content, width, *, turned):
    """A TIFF of one row of packed grey, as microscopes write it and Pillow does not; perhaps on its head."""
    short, long = 3, 4
    tags = [(256, short, width), (257, short, 1), (258, short, 12), (259, short, 1), (262, short, 1)]
    tags += [(273, long, 0), (274, short, 3 if turned else 1), (278, short, 1), (279, long, len(content))]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [
        struct.pack("<HHII", tag, kind, 1, start if tag == 273 else value) for tag, kind, value in tags
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(head + b"".join(entries) + bytes(4) + content)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_read_image_of_12_bits(tmp_path, channels, turned):
    write_12_bits(tmp_path / "a.tif", b"\xff\xf0\x01\x80\x00", 3, turned=turned)
    image = read_image(tmp_path / "a.tif", image_size=None, channels=channels)
    values = torch.tensor([4095.0, 1, 2048])
    assert_near(image, ((values.flip(0) if turned else values) / 4095).expand(channels, 1, 3))


def test_read_image_of_16_bits_with_transparency(tmp_path):
    values = np.array([[0, 1000, 1001, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=1000)
    image = read_image(tmp_path / "a.png", image_size=None, channels=1)
    assert_near(image, torch.tensor([[[0, 65535, 1001, 65535]]]) / 65535)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_read_image_refuses_pixels_of_unknown_range(tmp_path, dtype):
    Image.fromarray(np.zeros((5, 7), dtype=dtype)).save(tmp_path / "a.tif")
    with pytest.raises(
        ValueError, match=r"cannot read image .*a\.tif: the range of its pixels .*: save it with 8"
    ):
        read_image(tmp_path / "a.tif", image_size=None, channels=1)


def test_read_image_applies_the_exif_orientation(tmp_path):
    image = Image.new("L", (7, 5), 0)
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise to view
    image.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png", image_size=None, channels=1)
    assert upright.shape == (1, 7, 5)
    assert upright[0, 0, 4] == 1
    assert upright.sum() == 1


@pytest.mark.parametrize(("image_size", "shape"), [(11, (3, 11, 11)), ((3, 13), (3, 3, 13))])
def test_read_image_resizes(tmp_path, image_size, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (17, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", image_size=image_size, channels=3)
    assert image.shape == shape
    assert image.min() >= 0
    assert image.max() <= 1
    height, width = shape[1:]
    pillows = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    expected = torch.from_numpy(pillows).permute(2, 0, 1) / 255
    torch.testing.assert_close(image, expected, rtol=0, atol=2 / 255)  # Pillow rounds to 8 bits twice


def test_read_image_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_image(tmp_path / "a.png", image_size=None, channels=3)
    assert str(caught.value) == f"no such image: {tmp_path / 'a.png'}"


def test_a_program_in_an_image_does_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    head = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_text(head)
    with pytest.raises(ValueError, match=r"a\.png: it is not an image, or of a kind"):
        read_image(tmp_path / "a.png", image_size=None, channels=3)


def test_read_image_of_a_folder(tmp_path):
    with pytest.raises(
        ValueError, match=f"^cannot read image {tmp_path}: it is a folder, and holds no image"
    ):
        read_image(tmp_path, image_size=None, channels=3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"just text", "it is not an image, or of a kind that Pillow does not know"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), "it is a HEIC photograph, which .* convert it to JPEG first"),
        (b"\0\0\0\x18ftypqt  " + bytes(40), "it is a video .*, and an image is wanted"),
        (b"\x1aE\xdf\xa3" + bytes(40), "it is a video .*, and an image is wanted"),
        (b"<html><head>", "it is no whole image that Pillow opens: it begins like a web page"),
    ],
)
def test_read_image_of_another_file(tmp_path, content, says):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"cannot read image .*a\.png: {says}"):
        read_image(tmp_path / "a.png", image_size=None, channels=3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif"])
def test_read_image_that_is_cut(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cannot read image .*a\.{suffix}: .+"):
        read_image(path, image_size=None, channels=3)


def test_read_image_that_is_a_decompression_bomb(tmp_path, monkeypatch):
    save_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(
        ValueError, match=r"image .*a\.png: it may have 20 pixels at most, .*: shrink it first"
    ):
        read_image(tmp_path / "a.png", image_size=None, channels=3)


def test_read_image_wrong_arguments(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="channels must be one of 1, 3; got 4"):
        read_image(tmp_path / "a.png", image_size=None, channels=4)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        read_image(tmp_path / "a.png", image_size=(5, 0), channels=3)
    with pytest.raises(TypeError, match="image_size must be"):
        read_image(tmp_path / "a.png", image_size="5", channels=3)


def test_read_image_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"reading images needs the library 'pillow'.*nonlocalnn\[data\]"):
        read_image(tmp_path / "a.png", image_size=None, channels=3)


@pytest.mark.timeout(30)
def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"cannot read image .*: it is a pipe or a device"):
        read_image(tmp_path / "a.png", image_size=None, channels=3)
