"""Cut files at every length: whether one is whole is told from its bytes alone."""

import pytest

from nonlocalnn.data import containers

ADDED_UP = ("plain.mp4", "faststart.mp4", "plain.mkv", "vp9.webm", "mpeg4.avi")


def is_cut(path):
    with path.open("rb") as file:
        return containers.is_cut(file)


@pytest.mark.parametrize("name", ADDED_UP)
def test_whole_files_are_whole_and_no_cut_one_is(videos, tmp_path, name):
    assert is_cut(videos / name) is False
    content = (videos / name).read_bytes()
    path = tmp_path / name
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        assert is_cut(path) is True, share


@pytest.mark.parametrize("name", ["plain.mp4", "faststart.mp4", "plain.mkv", "vp9.webm"])
def test_one_byte_is_missed(videos, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((videos / name).read_bytes()[:-1])
    assert is_cut(path) is True


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "mpeg4.avi"])
def test_bytes_after_the_end_do_no_harm(videos, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((videos / name).read_bytes() + b"\0" * 100 + b"left by a copy")
    assert is_cut(path) is False


@pytest.mark.parametrize("name", ["stream.ts", "slow.flv", "text.mp4", "empty.mp4", "sound.wav"])
def test_others_do_not_say(videos, name):
    assert is_cut(videos / name) is None


def test_boxes_with_a_long_length(tmp_path):
    path = tmp_path / "a.mp4"
    start = (1).to_bytes(4, "big") + b"mdat" + (32).to_bytes(8, "big")
    path.write_bytes(start + bytes(16) + (8).to_bytes(4, "big") + b"moov")
    assert is_cut(path) is False
    path.write_bytes(start + bytes(15))
    assert is_cut(path) is True


def test_a_box_that_reaches_to_the_end_leaves_it_open(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes((8).to_bytes(4, "big") + b"moov" + bytes(4) + b"mdat" + bytes(100))
    assert is_cut(path) is None


def test_frames_without_their_list_are_cut(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes((8).to_bytes(4, "big") + b"ftyp" + (20).to_bytes(4, "big") + b"mdat" + bytes(12))
    assert is_cut(path) is True


def avi(*parts):
    """Return RIFF parts, each with a list of frames of a declared and a real length, after a chunk."""
    content = b""
    for kind, declared, length in parts:
        # Chunks of an odd length are followed by a byte that does not count.
        frames = (
            b"JUNK"
            + (3).to_bytes(4, "little")
            + bytes(4)
            + b"LIST"
            + declared.to_bytes(4, "little")
            + b"movi"
            + bytes(length - 4)
        )
        content += b"RIFF" + (len(frames) + 4).to_bytes(4, "little") + kind + frames
    return content


def test_avi_files_of_several_parts(tmp_path):
    path = tmp_path / "a.avi"
    for content, expected in (
        (avi((b"AVI ", 100, 100), (b"AVIX", 60, 60)), False),
        (avi((b"AVI ", 100, 100), (b"AVIX", 60, 50)), True),
        (avi((b"AVI ", 0, 100)), None),
        (avi((b"AVI ", 100, 90)), True),
    ):
        path.write_bytes(content)
        assert is_cut(path) is expected


def test_a_live_recording_leaves_its_size_open(videos, tmp_path):
    content = bytearray((videos / "plain.mkv").read_bytes())
    segment = content.index(b"\x18\x53\x80\x67") + 4
    content[segment : segment + 8] = b"\x01" + b"\xff" * 7
    path = tmp_path / "live.mkv"
    path.write_bytes(content)
    assert is_cut(path) is None
