"""Animations: each frame of the clip, with the weights of its time, in files that others can play."""

import sys
from fractions import Fraction

import av
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from affinity.planted import planted
from nonlocalnn.explorer import write_animation

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")

QUERY = (1, 2, 3)
# The clip is 5 frames of 8 x 12 pixels: each becomes a square of 22, since 12 x 22 is the first above 256.
SIDE, LEFT, TOP = 22, 10, 26


def frames_of(path):
    """Every frame as it is shown, uint8 (H, W, 3)."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with Image.open(path) as image:
        shown = []
        for number in range(image.n_frames):
            image.seek(number)
            shown.append(np.asarray(image.convert("RGB")))
        return shown


def pixel(frame, row, column):
    """The middle of an enlarged pixel, without the edge that a mark may cover."""
    top, left = TOP + row * SIDE, LEFT + column * SIDE
    return frame[top + 8 : top + 14, left + 8 : left + 14].mean((0, 1))


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
@pytest.mark.parametrize("instantiation", ["gaussian", "dot_product"])
def test_each_frame_shows_its_pixels_under_the_weights_of_its_time(tmp_path, suffix, instantiation):
    shown, weights = planted(3, instantiation=instantiation)
    clip = torch.rand(3, 5, 8, 12)
    path = tmp_path / "deep" / f"clip{suffix}"
    write_animation(shown, clip, path, query=QUERY, frames_per_second=5)
    frames = frames_of(path)
    assert len(frames) == 5
    assert {frame.shape for frame in frames} == {(8 * SIDE + 36, 12 * SIDE + 120, 3)}
    row = weights[(0, *QUERY)]
    # The last colour is that of three times the even level, where no weight is larger.
    largest = max(float(row.abs().max()), 3 * float(row.abs().mean()))
    scale = (row + largest) / (2 * largest) if instantiation == "dot_product" else row / largest
    colours = matplotlib.colormaps["RdBu_r" if instantiation == "dot_product" else "inferno"]
    for number, frame in enumerate(frames):
        for y, x in ((1, 1), (5, 2), (1, 6), (6, 10)):
            own = clip[:, number, y, x].numpy()
            if number < 4:
                # Keys are 4 x 4 pixels around 1.5.
                heat = colours(float(scale[number // 2, int(y + 0.5) // 4, int(x + 0.5) // 4]))[:3]
                own = 0.4 * own + 0.6 * np.array(heat)
            np.testing.assert_allclose(pixel(frame, y, x), 255 * own, atol=22)
        # The last row and column are in no key's box.
        np.testing.assert_allclose(pixel(frame, 7, 3)[0], 255 * clip[0, number, 7, 3], atol=130)


def is_marked(frame):
    """Shares of the top edge of the query's box, 2 pixels wide around (5.5, 3.5), that are green."""
    left, top = LEFT + int(5.5 * SIDE), TOP + int(3.5 * SIDE)
    edge = frame[top - 1 : top + 2, left : left + 2 * SIDE].astype(int)
    green = (edge[..., 1] > 150) & (edge[..., 1] > edge[..., 0] + 60) & (edge[..., 1] > edge[..., 2] + 60)
    return green.any(0).mean()


def test_the_query_is_outlined_in_its_own_frames_and_dashed_in_others(tmp_path):
    shown, _ = planted(3)
    write_animation(shown, torch.zeros(3, 5, 8, 12), tmp_path / "clip.gif", query=QUERY)
    marked = [is_marked(frame) for frame in frames_of(tmp_path / "clip.gif")]
    assert min(marked[2:4]) > 0.95
    assert all(0.2 < share < 0.8 for share in (*marked[:2], marked[4]))


def test_files_play_at_the_rate_and_a_gif_starts_over(tmp_path):
    shown, _ = planted(3)
    clip = torch.rand(1, 5, 8, 12)
    write_animation(shown, clip, tmp_path / "clip.gif", query=QUERY)
    with Image.open(tmp_path / "clip.gif") as image:
        assert (image.info["duration"], image.info["loop"]) == (250, 0)
    write_animation(shown, clip, tmp_path / "clip.mp4", query=QUERY, frames_per_second=12.5)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(25, 2)


def test_wide_clips_keep_their_size_and_sides_are_even(tmp_path):
    shown, _ = planted(3)
    grid = type(shown.grid)((2, 4, 6), (2, 31, 257), steps=(1.0, 8.0, 43.0), centres=(0.5, 4.0, 21.5))
    keys = type(shown.grid)((2, 2, 3), (2, 31, 257), steps=(1.0, 16.0, 86.0), centres=(0.5, 8.0, 43.0))
    wide = type(shown)("gaussian", "spacetime", grid, keys, theta=shown.theta, phi=shown.phi)
    write_animation(wide, torch.rand(1, 2, 31, 257), tmp_path / "clip.gif", query=QUERY)
    assert frames_of(tmp_path / "clip.gif")[0].shape == (68, 378, 3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": "clip.webm"}, r"must be one of '.gif', '.mp4'; got '.webm'"),
        ({"batch": 2}, "the map must be of one input; got a batch of 2"),
        ({"num_axes": 2}, r"animations are of clips; the map's input has the sides \(24, 40\)"),
        ({"frames_per_second": 0.0}, "above 0 and at most 50; got 0.0"),
        ({"frames_per_second": float("nan")}, "above 0 and at most 50; got nan"),
        ({"frames_per_second": 51}, "above 0 and at most 50; got 51"),
        ({"query": (2, 0, 0)}, r"query must be a place in \(2, 4, 6\); got \(2, 0, 0\)"),
        ({"pixels": torch.rand(3, 5, 12, 8)}, r"pixels must be \(C, 5, 8, 12\)"),
    ],
    ids=["ending", "batch", "image", "no rate", "rate is no number", "high rate", "query", "size"],
)
def test_wrong_settings_leave_no_file(tmp_path, settings, says):
    given = {"path": "clip.gif", "query": QUERY, "pixels": torch.rand(3, 5, 8, 12), **settings}
    shown, _ = planted(given.pop("num_axes", 3), batch=given.pop("batch", 1))
    with pytest.raises(ValueError, match=says):
        write_animation(shown, given.pop("pixels"), tmp_path / given.pop("path"), **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("library", "suffix", "extra"),
    [("matplotlib.figure", ".gif", "plots"), ("PIL", ".gif", "data"), ("av", ".mp4", "video")],
    ids=["matplotlib", "Pillow", "PyAV"],
)
def test_without_a_library_its_extra_is_named(tmp_path, monkeypatch, library, suffix, extra):
    monkeypatch.setitem(sys.modules, library, None)
    shown, _ = planted(3)
    with pytest.raises(ImportError, match=rf"pip install 'nonlocalnn\[{extra}\]'"):
        write_animation(shown, torch.rand(3, 5, 8, 12), tmp_path / f"clip{suffix}", query=QUERY)
    assert not list(tmp_path.iterdir())
