"""Images and videos that are damaged: pixels come out, or an error that names the file."""

import functools
import io
from dataclasses import dataclass

import numpy as np
import torch
from fuzz_mutation import mutated, mutations
from fuzz_outcome import outcome_of
from fuzz_watch import ran_out_of_memory, watched
from hypothesis import strategies as st
from PIL import Image

from nonlocalnn.data.images import read_image
from nonlocalnn.data.video import open_video
from nonlocalnn.explorer.admission import check_size, kinds_of
from videos import grey_frames, write_video

IMAGES = {
    "a.png": ("RGB", "PNG", {}),
    "16-bit.png": ("I;16", "PNG", {}),
    "palette.png": ("P", "PNG", {}),
    "clear.png": ("RGBA", "PNG", {}),
    "a.jpg": ("RGB", "JPEG", {}),
    "cmyk.jpg": ("CMYK", "JPEG", {}),
    "a.gif": ("P", "GIF", {}),
    "a.bmp": ("RGB", "BMP", {}),
    "a.webp": ("RGB", "WEBP", {}),
    "a.tif": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
}
_X264 = {"crf": "30", "preset": "ultrafast"}
VIDEOS = {
    "a.mp4": ("libx264", _X264),
    "a.mkv": ("libx264", _X264),
    "a.avi": ("mpeg4", {"qscale": "8"}),
    "a.webm": ("libvpx", {"crf": "40", "b": "100k", "deadline": "realtime", "cpu-used": "8"}),
}


@dataclass(frozen=True)
class Media:
    """A file, changed; what is asked of it; and whether the explorer looks at it first."""

    name: str
    changes: tuple
    size: int | None
    channels: int
    index: int
    is_explored: bool


@st.composite
def media(draw, names):
    return Media(
        draw(st.sampled_from(sorted(names))),
        draw(st.one_of(st.just(()), mutations(), mutations(), mutations())),
        draw(st.sampled_from((None, 8))),
        draw(st.sampled_from((1, 3))),
        draw(st.integers(0, 7)),
        draw(st.booleans()),
    )


def images():
    return media(IMAGES)


def videos():
    return media(VIDEOS)


@functools.cache
def _whole(folder, name):
    if name in VIDEOS:
        codec, options = VIDEOS[name]
        return write_video(folder / name, grey_frames(8), codec=codec, options=options).read_bytes()
    mode, kind, settings = IMAGES[name]
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("RGB")
    image = Image.new("I;16", (7, 9), 3000) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def check_media(case, folder):
    """Return what came of a file; AssertionError, or whatever else leaves the library, is a finding."""
    whole = _whole(folder, case.name)
    path = folder / f"case {case.name}"
    path.write_bytes(mutated(whole, case.changes))
    is_video = case.name in VIDEOS
    read = _video if is_video else _image
    # Decoders are set up at first use.
    (folder / case.name).write_bytes(whole)
    _first(read, folder, case.name)
    with watched():
        outcome, found = "answered", None
        if case.is_explored:
            # It decides what is decoded at all, and has limits of its own.
            kind = "video" if is_video else "image"
            if kind not in kinds_of(path):
                assert case.changes
                return "of another kind"
            outcome, found = outcome_of(lambda: check_size(path, kind=kind), ValueError)
        if outcome == "answered":
            outcome, found = outcome_of(lambda: read(path, case), (ValueError, FileNotFoundError))
    if outcome == "refused":
        assert case.changes, f"a whole file is refused: {found}"
        assert not ran_out_of_memory(found), f"it asked for too much memory: {found}"
        assert case.name in str(found) or "indices" in str(found)
    return outcome


@functools.cache
def _first(read, folder, name):
    case = Media(name, (), None, 3, 0, False)
    read(folder / name, case)
    check_size(folder / name, kind="video" if name in VIDEOS else "image")


def _image(path, case):
    pixels = read_image(path, image_size=case.size, channels=case.channels)
    assert pixels.shape[0] == case.channels
    assert pixels.dtype == torch.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert case.changes or pixels.shape[1:] == ((9, 7) if case.size is None else (8, 8))


def _video(path, case):
    with open_video(path) as video:
        assert case.changes or video.num_frames == 8
        frames = video.read([min(case.index, video.num_frames - 1), 0])
        assert frames.shape == (2, *video.size, 3)
        assert frames.dtype == torch.uint8
