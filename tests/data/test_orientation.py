"""All orientations that a display matrix can give, and the colours of videos."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from nonlocalnn.data.video import VideoDecodeError, open_video, pyav
from nonlocalnn.data.video.containers import is_mirrored
from nonlocalnn.data.video.files import check_video
from nonlocalnn.data.video.upright import oriented
from videos import write_video

# Of each matrix (a b c d): what players show.
ORIENTATIONS = {
    (1, 0, 0, 1): lambda x: x,
    (-1, 0, 0, 1): lambda x: x[:, ::-1],
    (1, 0, 0, -1): lambda x: x[::-1],
    (-1, 0, 0, -1): lambda x: x[::-1, ::-1],
    (0, 1, 1, 0): lambda x: x.transpose(1, 0, 2),
    (0, 1, -1, 0): lambda x: x.transpose(1, 0, 2)[:, ::-1],
    (0, -1, 1, 0): lambda x: x.transpose(1, 0, 2)[::-1],
    (0, -1, -1, 0): lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
}


# By the numbers of EXIF; None is a camera that does not tell.
OF_EXIF = {
    None: (1, 0, 0, 1),
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def quarters(height=48, width=64):
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 200
    picture[: height // 2, width // 2 :] = 120
    picture[height // 2 :, : width // 2] = 60
    return picture


def with_matrix(path, matrix):
    """Write a matrix (a b c d) into the file's track."""
    a, b, c, d = (round(65536 * value) for value in matrix)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def with_exif(path, orientation):
    """Write Motion JPEG as cameras do, each of whose frames is a photograph with EXIF."""
    exif = Image.Exif()
    exif[0x010F] = "a maker of cameras"
    if orientation is not None:
        exif[0x0112] = orientation
    photograph = io.BytesIO()
    Image.fromarray(quarters()).save(photograph, "JPEG", exif=exif)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for number in range(3):
            packet = av.Packet(photograph.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_all_eight_orientations(tmp_path, matrix, suffix):
    path = with_matrix(write_video(tmp_path / f"a{suffix}", [quarters()] * 3), matrix)
    expected = ORIENTATIONS[matrix](quarters()).astype(int)
    with open_video(path) as video:
        found = video.read([2])[0].numpy().astype(int)
        assert video.size == expected.shape[:2]
    assert abs(found - expected).mean() < 6
    with path.open("rb") as file:
        assert is_mirrored(file) is (matrix[0] * matrix[3] < matrix[1] * matrix[2])


@pytest.mark.parametrize(
    ("matrix", "nearest"),
    [
        ((2, 0, 0, 0.5), (1, 0, 0, 1)),
        ((-3, 0, 0, 1), (-1, 0, 0, 1)),
        ((0, 0.5, -2, 0), (0, 1, -1, 0)),
        ((0.94, 0.34, -0.34, 0.94), (1, 0, 0, 1)),
        ((0.1, -1, 1, 0.1), (0, -1, 1, 0)),
        ((0, 0, 0, 0), (1, 0, 0, 1)),
    ],
)
def test_other_matrices_are_taken_for_the_nearest(matrix, nearest):
    a, b, c, d = matrix
    found = oriented(torch.from_numpy(quarters()), (a, b, 0, c, d, 0, 7, 9, 1)).numpy()
    np.testing.assert_array_equal(found, ORIENTATIONS[nearest](quarters()))


@pytest.mark.parametrize("suffix", [".avi", ".mov", ".mkv"])
def test_exif_in_the_frames_of_a_camera(tmp_path, suffix):
    for number, matrix in OF_EXIF.items():
        path = with_exif(tmp_path / f"{number}{suffix}", number)
        expected = ORIENTATIONS[matrix](quarters()).astype(int)
        with open_video(path) as video:
            assert (video.num_frames, video.size) == (3, expected.shape[:2])
            found = video.read([0, 2])[1].numpy().astype(int)
        assert abs(found - expected).mean() < 6


def test_a_file_that_pyav_does_not_understand_is_named(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", [quarters()] * 3)

    def refuse(frame):
        raise KeyError("a kind of frame that is not known yet")

    with open_video(path) as video:
        monkeypatch.setattr(pyav, "display_matrix", refuse)
        with pytest.raises(VideoDecodeError, match=r"read frame 1 of .*a\.mp4: PyAV says: 'a kind") as caught:
            video.read([1])
    assert (caught.value.path, caught.value.frame) == (path, 1)
    assert "PyAV says: 'a kind" in check_video(path)


def test_torchcodec_refuses_what_it_would_show_unmirrored(tmp_path):
    path = with_matrix(write_video(tmp_path / "a.mp4", [quarters()] * 2), (-1, 0, 0, 1))
    with pytest.raises(VideoDecodeError, match="does not mirror them: use the decoder 'pyav'"):
        open_video(path, backend="torchcodec")


# Kr, Kb and FFmpeg's number of each matrix.
MATRICES = {"bt601": (0.299, 0.114, 6), "bt709": (0.2126, 0.0722, 1), "bt2020": (0.2627, 0.0593, 9)}


def coloured(path, rgb, *, matrix, full, named=True, size=(64, 48)):
    """Write a video of one colour, whose file names its matrix and range or does not."""
    kr, kb, number = MATRICES[matrix]
    red, green, blue = (value / 255 for value in rgb)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    u, v = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    scale = (255, 255, 0) if full else (219, 224, 16)
    levels = (scale[2] + scale[0] * y, 128 + scale[1] * u, 128 + scale[1] * v)
    width, height = size
    counts = (width * height, width * height // 4, width * height // 4)
    pixels = np.concatenate([np.full(*each) for each in zip(counts, map(round, levels), strict=True)])
    pixels = pixels.astype(np.uint8).reshape(-1, width)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": "1"}
        if named:
            stream.codec_context.colorspace, stream.codec_context.color_range = number, 2 if full else 1
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            if named:
                frame.colorspace, frame.color_range = number, 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_by_the_matrix_that_the_file_names(tmp_path, matrix, full):
    with open_video(coloured(tmp_path / "a.mp4", (200, 40, 60), matrix=matrix, full=full)) as video:
        found = video.read([1])[0, 20, 20].int()
    assert (found - torch.tensor([200, 40, 60])).abs().max() <= 4


def test_a_file_that_names_none_is_taken_for_bt601_whatever_its_size(tmp_path):
    for number, size in enumerate(((64, 48), (1280, 720))):
        path = tmp_path / f"{number}.mp4"
        coloured(path, (200, 40, 60), matrix="bt601", full=False, named=False, size=size)
        with open_video(path) as video:
            found = video.read([0])[0, 20, 20].int()
        assert (found - torch.tensor([200, 40, 60])).abs().max() <= 4
