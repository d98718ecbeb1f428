"""How fast clips come out of video files: each backend alone, and the data set in reading processes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.measure import Timing, time_together
from benchmarks.rows import Row
from nonlocalnn.data.video import BACKENDS, open_video
from nonlocalnn.data.video.clips import train_indices
from nonlocalnn.data.video.dataset import RandomClip, VideoClips
from nonlocalnn.data.video.files import shrink_video
from nonlocalnn.data.video.lists import VideoList
from nonlocalnn.data.video.writing import write_h264

_FRAMES, _STRIDE = 8, 8
_RATE = 30
_WORKERS, _BATCH = 2, 4
# Backends round and interpolate colours each in its own way; another frame differs by several times as much.
_MOST_LEVELS = 3.0


@dataclass(frozen=True)
class Amount:
    """How much is read.

    Args:
        size: (H, W) of the video in pixels.
        num_frames: Its frames, 30 a second.
        num_reads: Clips that each backend reads alone.
        num_loaded: Clips that the reading processes load each time.
        num_loadings: How often.
        sampling: What they make of them.
    """

    size: tuple[int, int]
    num_frames: int
    num_reads: int
    num_loaded: int
    num_loadings: int
    sampling: RandomClip


FULL = Amount((256, 340), 300, 40, 128, 3, RandomClip())
QUICK = Amount((48, 64), 30, 2, 12, 1, RandomClip(short_sides=(32, 40), crop_size=32))


def measure_decoding(amount: Amount) -> Iterator[Row]:
    """Encode a video, and read clips of 8 frames of stride 8 out of it at random places.

    There are two files: "original" has the encoder's own distance of keyframes, up to 250 frames, "shrunk"
    is what :func:`nonlocalnn.data.shrink_video` makes of it. They come from the system's cache, not from a
    disk.

    Yields:
        A row for each file and backend: "file", its "bytes", "backend"; "seconds" to open the file and read
        a clip, of which "opening" are for the former, and "frames_per_second" of both; "loading", the seconds
        a clip of a ``DataLoader`` with 2 processes that scales and cuts it too, and "clips_per_second" of
        that. A backend that does not work, or reads other frames than the first, has the reason in "absent"
        instead.

    Raises:
        ImportError: PyAV is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        original, shrunk = (Path(folder) / f"{name}.mp4" for name in ("original", "shrunk"))
        encode_video(original, size=amount.size, num_frames=amount.num_frames)
        shrink_video(original, shrunk)
        for path in (original, shrunk):
            yield from _measure_file(path, amount)


def encode_video(path: Path, *, size: tuple[int, int], num_frames: int) -> None:
    """Write H.264 in mp4: a texture that drifts, fine noise over it; the seed is fixed.

    Raises:
        ImportError: PyAV is missing.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, size[0] // 8, size[1] // 8, generator=generator)
    texture = F.interpolate(coarse, size=size, mode="bilinear")[0].permute(1, 2, 0) * 255

    def image(number: int) -> Any:
        moved = texture.roll((number, 2 * number), (0, 1))
        noisy = moved + 6 * torch.randn(moved.shape, generator=generator)
        return noisy.clamp(0, 255).to(torch.uint8).numpy()

    frames = ((number, image(number)) for number in range(num_frames))
    write_h264(path, frames, size=size, rate=_RATE, quality=23)


def _measure_file(path: Path, amount: Amount) -> Iterator[Row]:
    clips, absent = _try_backends(path)
    # In turn and at the same places, so that all backends meet the same.
    timings = _time_together({backend: _reader(path, backend) for backend in clips}, amount)
    openings = _time_together({backend: _opener(path, backend) for backend in clips}, amount)
    for backend in BACKENDS:
        row: Row = {"file": path.stem, "bytes": path.stat().st_size, "backend": backend}
        if backend in absent:
            yield {**row, "absent": absent[backend]}
            continue
        loading = Timing.of([_load(path, backend, amount) for _ in range(amount.num_loadings)])
        yield {
            **row,
            "seconds": dataclasses.asdict(timings[backend]),
            "opening": dataclasses.asdict(openings[backend]),
            "frames_per_second": _FRAMES / timings[backend].median,
            "loading": dataclasses.asdict(loading),
            "clips_per_second": 1 / loading.median,
        }


def _time_together(functions: Mapping[str, Callable[[], object]], amount: Amount) -> dict[str, Timing]:
    return time_together(functions, min_seconds=0.0, min_runs=amount.num_reads, max_runs=amount.num_reads)


def _try_backends(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a clip by each backend that works, and why the others do not."""
    clips: dict[str, Tensor] = {}
    absent: dict[str, str] = {}
    for backend in BACKENDS:
        try:
            clip = _reader(path, backend)()
        except ImportError as missing:
            absent[backend] = str(missing)
            continue
        first = next(iter(clips.values()), clip)
        levels = float((clip.float() - first.float()).abs().mean())
        if levels > _MOST_LEVELS:
            absent[backend] = (
                f"refused: frames differ from those of {next(iter(clips))} by {levels:.1f} levels"
            )
            continue
        clips[backend] = clip
    return clips, absent


def _reader(path: Path, backend: str) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def read() -> Tensor:
        with open_video(path, backend=backend) as video:
            indices = train_indices(video.num_frames, frames=_FRAMES, stride=_STRIDE, generator=generator)
            return video.read(indices)

    return read


def _opener(path: Path, backend: str) -> Callable[[], None]:
    return lambda: open_video(path, backend=backend).close()


def _load(path: Path, backend: str, amount: Amount) -> float:
    """Return the seconds a clip of reading processes at work, their start left out."""
    count = amount.num_loaded
    videos = VideoList((path,) * count, targets=(0,) * count, classes=("drift",))
    clips = VideoClips(videos, frames=_FRAMES, stride=_STRIDE, sampling=amount.sampling, backend=backend)
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(clips, batch_size=_BATCH, num_workers=_WORKERS, generator=generator)
    batches = iter(loader)
    # From the moment that each process has handed over its first batch, to the last batch; a loop to the end
    # would wait for the processes to stop, too.
    for _ in range(_WORKERS):
        next(batches)
    start = time.perf_counter()
    loaded = sum(len(next(batches)[0]) for _ in range(len(loader) - _WORKERS))
    return (time.perf_counter() - start) / loaded
