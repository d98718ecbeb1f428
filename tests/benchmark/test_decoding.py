"""The benchmark of reading clips: the file that is read, the rows, a backend that reads something else."""

import sys

import torch

from benchmarks import decoding
from nonlocalnn.data.video import open_video


def test_the_video_moves_and_does_not_compress_to_nothing(tmp_path):
    path = tmp_path / "a.mp4"
    decoding.encode_video(path, size=(48, 64), num_frames=10)
    with open_video(path) as video:
        assert (video.num_frames, video.size, video.frames_per_second) == (10, (48, 64), 30)
        frames = video.read(range(10)).float()
    assert (frames[1:] - frames[:-1]).abs().mean() > decoding._MOST_LEVELS
    assert path.stat().st_size > 100 * 10


def test_backends_without_their_library_have_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    rows = list(decoding.measure_decoding(decoding.QUICK))
    assert [(row["file"], row["backend"], "absent" in row) for row in rows] == [
        ("original", "pyav", False),
        ("original", "torchcodec", True),
        ("shrunk", "pyav", False),
        ("shrunk", "torchcodec", True),
    ]
    assert "run pip install torchcodec" in rows[1]["absent"]
    for row in rows[::2]:
        assert row["seconds"]["runs"] == row["opening"]["runs"] == decoding.QUICK.num_reads
        assert row["frames_per_second"] == 8 / row["seconds"]["median"]
        assert row["clips_per_second"] == 1 / row["loading"]["median"]
        assert row["bytes"] > 0


def test_readers_meet_the_same_places(tmp_path):
    path = tmp_path / "a.mp4"
    decoding.encode_video(path, size=(48, 64), num_frames=120)
    one, other = (decoding._reader(path, "pyav") for _ in range(2))
    first = one()
    assert first.shape == (8, 48, 64, 3)
    assert torch.equal(first, other())
    second = one()
    assert torch.equal(second, other())
    assert not torch.equal(first, second)


def test_a_backend_that_reads_other_frames_is_refused(monkeypatch):
    frames = torch.randint(256, (8, 5, 7, 3), dtype=torch.uint8)
    read = {"pyav": frames, "torchcodec": frames}
    monkeypatch.setattr(decoding, "_reader", lambda path, backend: lambda: read[backend])
    assert decoding._try_backends("a.mp4") == (read, {})
    read["torchcodec"] = frames.roll(1, 0)
    clips, absent = decoding._try_backends("a.mp4")
    assert list(clips) == ["pyav"]
    assert absent["torchcodec"].startswith("refused: frames differ from those of pyav by")


def test_a_loader_needs_batches_beyond_the_first_of_each_process():
    for amount in (decoding.FULL, decoding.QUICK):
        batches = -(-amount.num_loaded // decoding._BATCH)
        assert batches > decoding._WORKERS
        assert amount.sampling.crop_size <= min(amount.size)
