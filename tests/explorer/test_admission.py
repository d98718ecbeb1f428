"""What the explorer lets in, by content, size and place."""

import contextlib
import ctypes
import io
import os
import socket
import struct
import threading
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from nonlocalnn.explorer import admission
from nonlocalnn.explorer.admission import check_size, find_input, kinds_of, list_inputs
from videos import write_video

IN_OPEN = 0x20


def encoded(file_format):
    file = io.BytesIO()
    Image.new("RGB", (9, 7)).save(file, format=file_format)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"])
def test_images_are_known_by_their_content(tmp_path, file_format):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encoded(file_format))
    assert kinds_of(path) == (("image", "video") if file_format == "GIF" else ("image",))
    check_size(path, kind="image")


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", "libx264"),
        (".mov", "libx264"),
        (".mkv", "libx264"),
        (".webm", "libvpx"),
        (".avi", "mpeg4"),
        (".mpg", "mpeg1video"),
        (".wmv", "wmv2"),
        (".flv", "flv"),
        (".m1v", "mpeg1video"),
        (".gif", "gif"),
    ],
)
def test_videos_are_known_by_their_content(tmp_path, suffix, codec):
    images = [np.full((48, 64, 3), 40 * number, dtype=np.uint8) for number in range(3)]
    options = {} if codec == "gif" else {"b": "200000"}
    if codec == "gif":
        path = tmp_path / "a.gif"
        frames = [Image.fromarray(image) for image in images]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    else:
        path = write_video(tmp_path / f"a{suffix}", images, codec=codec, options=options)
    path = path.rename(tmp_path / "upload")
    assert "video" in kinds_of(path)
    check_size(path, kind="video")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#EXTM3U\nhttp://localhost/x",
        b"ffconcat version 1.0\nfile /etc/passwd",
        b"PK\x03\x04 a zip",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"\x00\x00\x00\x1cftypheic",
        b"<svg xmlns='http://www.w3.org/2000/svg'>",
    ],
    ids=["empty", "playlist", "list of files", "zip", "PostScript", "sound", "heic", "svg"],
)
def test_other_files_are_neither(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert kinds_of(path) == ()


def bomb(width, height):
    """The header of a PNG of any size, and nothing else."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header))
    return start + b"IHDR" + header + checksum + b"\0\0\0\1IDAT"


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((10_000, 5_001), "50 megapixels"),
        ((10_000, 9_000), "90 megapixels, and up to 50 are explained here"),
        ((20_000, 20_000), "hundreds of megapixels, and up to 50"),
    ],
    ids=["just over", "where Pillow warns", "where Pillow refuses"],
)
def test_large_images_are_refused_by_their_header(tmp_path, size, says):
    path = tmp_path / "large.png"
    path.write_bytes(bomb(*size))
    with pytest.raises(ValueError, match=says):
        check_size(path, kind="image")
    path.write_bytes(bomb(10_000, 5_000))
    check_size(path, kind="image")


@pytest.mark.parametrize("content", [b"BM, a text", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_after_all(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read image .*a\.png: it is damaged, or none of PNG, JPEG"):
        check_size(path, kind="image")


def test_an_image_of_a_kind_that_is_not_read(tmp_path):
    Image.new("L", (9, 7)).save(tmp_path / "a.ppm")
    with pytest.raises(ValueError, match="none of PNG, JPEG"):
        check_size(tmp_path / "a.ppm", kind="image")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x00\x00\x00\x18ftypisom" + bytes(99), "it is damaged, or of a kind"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "it is damaged, or of a kind"),
    ],
    ids=["damaged", "playlist"],
)
def test_what_is_no_video_after_all(tmp_path, content, says):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"cannot read video .*a\.mp4: ({says})"):
        check_size(path, kind="video")


def test_a_playlist_fetches_nothing(tmp_path):
    asked = []

    def answer():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                asked.append(connection.recv(100))
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        path = tmp_path / "a.m3u8"  # FFmpeg believes in playlists by their names
        segment = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{segment}\n#EXT-X-ENDLIST\n")
        with pytest.raises(ValueError, match="cannot read video"):
            check_size(path, kind="video")
        server.shutdown(socket.SHUT_RDWR)
    assert asked == []


def test_a_video_of_a_kind_that_is_not_read(tmp_path):
    path = write_video(tmp_path / "a.nut")
    with pytest.raises(ValueError, match="it is damaged, or of a kind that is not read here"):
        check_size(path, kind="video")


@contextmanager
def watched(path):
    """Gives a function that tells whether anybody has opened a file."""
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(descriptor, os.fsencode(path), IN_OPEN) > 0

    def was_opened():
        try:
            return bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return False

    try:
        yield was_opened
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8"])
@pytest.mark.parametrize("target", ["other.mp4", "{folder}/other.mp4", "file:{folder}/other.mp4"])
@pytest.mark.parametrize(
    "text",
    ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"],
    ids=["list of files", "playlist"],
)
def test_a_video_that_names_another_file_opens_it_not(tmp_path, text, target, name):
    other = write_video(tmp_path / "other.mp4")
    path = tmp_path / name
    path.write_text(text.format(target.format(folder=tmp_path)))
    with watched(other) as was_opened:
        with pytest.raises(ValueError, match="it is damaged, or of a kind that is not read here"):
            check_size(path, kind="video")
        assert not was_opened()
        other.read_bytes()
        assert was_opened()


def test_ffmpeg_may_open_no_other_file_and_only_these_kinds(tmp_path, monkeypatch):
    import av

    given = []

    def open_and_note(*words, options, **settings):
        given.append(options)
        if not settings:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no title")
        raise av.error.InvalidDataError(1, "no video")

    monkeypatch.setattr(av, "open", open_and_note)
    path = tmp_path / "a.mp4"
    path.touch()
    with pytest.raises(ValueError, match="it is damaged"):
        check_size(path, kind="video")
    kinds = {
        "mov",
        "matroska",
        "webm",
        "avi",
        "mpeg",
        "mpegts",
        "mpegvideo",
        "m4v",
        "asf",
        "flv",
        "ogg",
        "gif",
    }
    assert [options["protocol_whitelist"] for options in given] == ["none", "none"]
    assert [set(options["format_whitelist"].split(",")) for options in given] == [kinds, kinds]


def test_sound_is_no_video(tmp_path):
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="holds no video stream"):
        check_size(path, kind="video")


@pytest.mark.parametrize(("height", "width"), [(16, 4098), (4098, 16)])
def test_large_frames_are_refused(tmp_path, height, width):
    path = write_video(tmp_path / "a.mp4", [np.zeros((height, width, 3), dtype=np.uint8)])
    with pytest.raises(ValueError, match=f"its frames are {height} x {width} pixels"):
        check_size(path, kind="video")
    path = write_video(
        tmp_path / "b.mp4", [np.zeros((min(height, 4096), min(width, 4096), 3), dtype=np.uint8)]
    )
    check_size(path, kind="video")


@pytest.mark.parametrize(("second", "fits"), [(599, True), (601, False)])
def test_long_videos_are_refused_by_their_header(tmp_path, second, fits):
    path = write_video(
        tmp_path / "a.mp4", [np.zeros((16, 16, 3), dtype=np.uint8)] * 2, times=[0, second * 25]
    )
    if fits:
        check_size(path, kind="video")
    else:
        with pytest.raises(ValueError, match=r"longer than the 10 minutes or 20,000 frames .* cut it"):
            check_size(path, kind="video")


@pytest.mark.parametrize(
    ("limit", "fitting", "too_low"), [("_MAX_FRAMES", 40, 39), ("_MAX_SECONDS", 1.6, 1.5)]
)
def test_videos_whose_header_declares_nothing_are_counted(tmp_path, monkeypatch, limit, fitting, too_low):
    path = write_video(tmp_path / "a.mkv", live="1")
    monkeypatch.setattr(admission, limit, fitting)
    check_size(path, kind="video")
    monkeypatch.setattr(admission, limit, too_low)
    with pytest.raises(ValueError, match="it is longer than"):
        check_size(path, kind="video")


@pytest.fixture
def folder(tmp_path):
    """Inputs, files that are none, and links of all kinds."""
    inputs = tmp_path / "inputs"
    for name in ("b.png", "deep/a.MP4", "notes.txt", ".hidden.png", ".git/c.png", "deep/c d \u00fc.jpg"):
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / name).touch()
    (tmp_path / "secret.png").touch()
    (inputs / "inside.png").symlink_to(inputs / "b.png")
    (inputs / "outside.png").symlink_to(tmp_path / "secret.png")
    (inputs / "up").symlink_to(tmp_path)
    (inputs / "circle.png").symlink_to(inputs / "circle.png")
    (inputs / "gone.png").symlink_to(inputs / "gone")
    os.mkfifo(inputs / "pipe.png")
    (inputs / "folder.png").mkdir()
    (inputs / os.fsdecode(b"\xff.png")).touch()
    return inputs


def test_inputs_are_listed(folder):
    expected = ["b.png", "deep/a.MP4", "deep/c d \u00fc.jpg", "inside.png"]
    assert list_inputs(folder) == expected
    for name in expected:
        assert find_input(folder, name) == (folder / name).resolve()


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "../secret.png", "deep/../b.png", "{root}/inputs/b.png", "outside.png"),
        *("up/secret.png", "circle.png", "gone.png", "pipe.png", "folder.png", ".hidden.png", ".git/c.png"),
        *(
            "notes.txt",
            "absent.png",
            "b.png\0.png",
            "\udcff.png",
            "deep",
            "b.png/../b.png",
            "~/b.png",
        ),
        "x" * 5000 + ".png",
    ],
)
def test_other_names_are_no_inputs(folder, name):
    assert find_input(folder, name.format(root=folder.parent)) is None


def test_a_file_that_may_not_be_read_is_no_input(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "b.png" or mode != os.R_OK)
    assert find_input(folder, "b.png") is None
    assert list_inputs(folder) == ["deep/a.MP4", "deep/c d \u00fc.jpg"]


def test_a_folder_of_inputs_may_be_a_link(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert find_input(link, "b.png") == folder / "b.png"
    assert "b.png" in list_inputs(link)


def test_lists_have_an_end(folder, monkeypatch):
    monkeypatch.setattr(admission, "_MOST_LISTED", 2)
    assert len(list_inputs(folder)) == 2
    monkeypatch.setattr(admission, "_MOST_WALKED", 1)
    assert len(list_inputs(folder)) < 2


@pytest.mark.parametrize("options", [{}, {"mpegts_m2ts_mode": "1"}], ids=["packets of 188", "of 192"])
def test_transport_streams_are_known_by_their_packets(tmp_path, options):
    path = write_video(tmp_path / "a.ts", **options)
    assert kinds_of(path) == ("video",)
    check_size(path, kind="video")
    content = bytearray(path.read_bytes())
    content[4 + 192 if options else 188] ^= 1
    path.write_bytes(content)
    assert kinds_of(path) == ()
    path.write_bytes(b"G" + bytes(187))
    assert kinds_of(path) == ()
