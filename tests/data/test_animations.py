"""Animations: cut ones are told from whole ones by their bytes, and kinds that are not read are named."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from nonlocalnn.data.video import ArchivedFile, VideoDecodeError, check_no_image, open_video
from nonlocalnn.data.video.containers import is_cut


def pictures(mode="RGB", num_frames=5):
    random_numbers = np.random.default_rng(0)
    return [
        Image.fromarray(random_numbers.integers(0, 255, (12, 16, 3), dtype=np.uint8)).convert(mode)
        for _ in range(num_frames)
    ]


def animation(kind, images=None, **settings):
    first, *others = pictures() if images is None else images
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=others, duration=40, **settings)
    return file.getvalue()


# A table of colours of the whole, one of each picture, a comment, and a single picture.
GIFS = {
    "colours of each": animation("GIF"),
    "colours of all": animation("GIF", [image.convert("L") for image in pictures()]),
    "repeated": animation("GIF", loop=0, comment=b"c" * 300),
    "one picture": animation("GIF", pictures(num_frames=1)),
}
WHOLE = {**{f"{name}.gif": content for name, content in GIFS.items()}, "a.apng": animation("PNG")}


@pytest.mark.parametrize("name", WHOLE)
def test_an_animation_is_whole_at_its_full_length_only(name):
    content = WHOLE[name]
    assert is_cut(io.BytesIO(content)) is False
    assert is_cut(io.BytesIO(content + b";left by a copy")) is False
    for length in {*range(13, 40), len(content) - 1, *random.Random(0).sample(range(40, len(content)), 60)}:
        assert is_cut(io.BytesIO(content[:length])) is True, length


def test_a_block_of_no_known_kind_leaves_it_open():
    assert is_cut(io.BytesIO(GIFS["repeated"][:-1] + b"?;")) is None


@pytest.mark.parametrize("name", ["colours of each.gif", "a.apng"])
def test_half_an_animation_is_an_error(tmp_path, name):
    path, content = tmp_path / name, WHOLE[name]
    path.write_bytes(content)
    with open_video(path) as video:
        assert video.read(range(5)).shape == (5, 12, 16, 3)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoDecodeError, match="it is cut, its container declares more"):
        open_video(path)


@pytest.mark.parametrize("kind", ["WebP", "AVIF"])
def test_animations_that_are_not_read_say_so(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    try:
        path.write_bytes(animation(kind))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    says = f"a.{kind.lower()}: it is an animated {kind}, and of animations GIF and APNG are read: convert it"
    with pytest.raises(VideoDecodeError, match=says):
        open_video(path)
    with pytest.raises(VideoDecodeError, match=says):
        open_video(ArchivedFile(path, f"a.{kind.lower()}", start=0, size=path.stat().st_size))
    if kind == "WebP":
        # By its ending it might be a picture.
        for named in (path, str(path)):
            with pytest.raises(VideoDecodeError, match=says):
                check_no_image(named)


def box(kind, content=b""):
    return (8 + len(content)).to_bytes(4, "big") + kind + content


@pytest.mark.parametrize(
    ("brand", "says"),
    [
        (b"avif", "it is an AVIF image, and the model takes videos: give it to a model of images$"),
        (b"heic", "it is a HEIC photograph, and the model takes videos: .*images, converted to JPEG$"),
    ],
)
def test_a_photograph_in_boxes_is_not_called_cut(tmp_path, brand, says):
    path = tmp_path / "a"
    content = box(b"ftyp", brand + bytes(4) + b"mif1") + box(b"meta", bytes(20)) + box(b"mdat", bytes(50))
    for length in (len(content), len(content) - 9):
        path.write_bytes(content[:length])
        with pytest.raises(VideoDecodeError, match=says):
            open_video(path)
    # A video that lost its list of frames is cut, whatever else it holds.
    path.write_bytes(content.replace(brand, b"isom"))
    with pytest.raises(VideoDecodeError, match="it is cut"):
        open_video(path)


def test_a_still_avif_of_pillow(tmp_path):
    path = tmp_path / "a.avif"
    try:
        pictures()[0].save(path)
    except (KeyError, OSError, ValueError):
        pytest.skip("this Pillow writes no AVIF")
    with pytest.raises(VideoDecodeError, match="it is an AVIF image"):
        open_video(path)


def test_a_picture_is_still_called_one(tmp_path):
    pictures()[0].save(tmp_path / "a.webp")
    with pytest.raises(VideoDecodeError, match=r"a\.webp is an image, and the model takes videos"):
        check_no_image(tmp_path / "a.webp")
