"""Data that are lost, damaged or not finite while a run reads them."""

import shutil
import signal
import tempfile
from pathlib import Path

from fault_data import image_folder, video_folder
from fault_points import Fault
from fault_rows import LONG, Row, readable_by_all, stop_and_mend

from videos import cut


def lost_images(bench, *, actions=("remove", "cut", "forbid"), num_workers=(0,)):
    """Take a file, or the whole folder, of the images away at the start of the second epoch."""
    return _lost_data(
        bench, "image folder", image_folder, "train/dark/0.png", actions=actions, num_workers=num_workers
    )


def lost_videos(bench, *, actions=("remove", "cut", "forbid"), num_workers=(0,)):
    """Take a file, or the whole folder, of the videos away at the start of the second epoch."""
    return _lost_data(
        bench, "video folder", video_folder, "train/dark/0.mp4", actions=actions, num_workers=num_workers
    )


def _lost_data(bench, name, make, file, *, actions, num_workers):
    row, stops = Row(f"data lost: {name}"), {}
    folder = Path(tempfile.mkdtemp(dir=bench.folder)) / "data"
    words = (*make(folder), "--checkpoint-every", "1")
    # Kept, not made again: an encoder need not give the same bytes twice.
    shutil.copytree(folder, folder.with_name("copy"))

    def mend():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folder.with_name("copy"), folder)

    for number in num_workers:
        # Readers have read ahead: of 12 samples an epoch the 7th is one of the second reader's first.
        faults = {
            f"{action} file, {number} workers": Fault(
                "sample", count=7 if number else 13, action=action, path=str(folder / file)
            )
            for action in actions
        }
        faults[f"remove folder, {number} workers"] = Fault(
            "sample", count=7 if number else 13, action="remove", path=str(folder)
        )
        with readable_by_all(bench):
            stops |= stop_and_mend(bench, row, (*words, "--num-workers", str(number)), faults, mend=mend)
    return row, stops


def not_finite(bench, *, num_workers=(0,)):
    """Make a sample NaN, then mend it; return the stops, and the name of the sample."""
    row, stops = Row("a sample that is NaN"), {}
    folder = bench.folder / "poisoned"
    words = (*image_folder(folder), *LONG)
    for number in num_workers:
        faults = {f"{number} workers": Fault(action="nan", count=7)}
        stops |= stop_and_mend(bench, row, (*words, "--num-workers", str(number)), faults)
    return row, stops, str(folder / "train" / "dark" / "1.png")


def cut_videos(bench):
    """Cut one of twelve videos, with and without ``max_broken``; kill the run that goes on without it."""
    row = Row("a video cut short")
    folder = bench.folder / "cut-videos"
    words = (*video_folder(folder), "--checkpoint-every", "1")
    expected, output = bench.reference(words), bench.place()
    video = folder / "train" / "dark" / "3.mp4"
    content = video.read_bytes()
    cut(video, video)
    stop = bench.run(words, output)
    row.count("max_broken 0", stop)
    video.write_bytes(content)
    assert bench.run(words, output).status == 0
    row.compare(expected, output)
    cut(video, video)
    tolerant, killed = (*words, "--max-broken", "1"), bench.place()
    # One reference more: of a run to which the cut video was never there.
    without = bench.reference(tolerant)
    for count in (9, 9):
        row.count("max_broken 1, killed", bench.run(tolerant, killed, fault=Fault("sample", count=count)))
    row.count("max_broken 1", bench.run(tolerant, killed))
    row.compare(without, killed)
    return row, stop


def stopped_while_validating(bench, *, num_workers=(0,)):
    """Send SIGTERM to all processes of a run, readers included, while it reads validation images."""
    row = Row("SIGTERM to readers, too, during validation")
    words = (*image_folder(bench.folder / "images"), *LONG)
    faults = {"SIGTERM": Fault("validation", action="signal", amount=signal.SIGTERM)}
    for number in num_workers:
        stop_and_mend(bench, row, (*words, "--num-workers", str(number)), faults)
    return row
