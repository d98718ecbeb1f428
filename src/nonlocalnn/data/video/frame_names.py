"""Which pictures of a folder are the frames of its video, in which order, and whether any is missing."""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from statistics import median_low

from nonlocalnn.data.folder_files import ANIMATION_SUFFIXES, VIDEO_SUFFIXES

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Pictures of optical flow, as denseflow and its like call them: flow_x_00001.jpg, x_0001.jpg.
_FLOW = re.compile(r"(?:.*[^a-z])?(?:opt|optical)?flow(?:[^a-z].*|[xyuv]#.*)?|[xyuv][^a-z]*")
_MOST_NAMED = 4
_VIDEO_FILES = frozenset(VIDEO_SUFFIXES) - frozenset(ANIMATION_SUFFIXES)


def is_frame(entry: Path) -> bool:
    """Return whether a file is a picture by its ending, and not hidden."""
    return entry.suffix.lower() in FRAME_SUFFIXES and entry.name[0] != "." and entry.is_file()


def frame_paths(folder: Path) -> list[Path]:
    """Return the frames in a folder, in their order; none when it is not a folder of frames.

    Names that differ in their numbers alone are a series, and a series is a video: ``img_00001.jpg``,
    ``img_00002.jpg``. Numbers count by their value; they may start anywhere and rise by any step. Beside it
    pictures of optical flow (``flow_x_00001.jpg``, ``x_0001.jpg``) are left out, and so are files that are no
    pictures, a video with a warning. Pictures without any number come in the order of their names.

    Raises:
        ValueError: There are as many videos as pictures, or more than one series; pictures without a number
            lie beside numbered ones; two have the same number; or some are missing from the series.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("img_2.jpg", "img_10.jpg", "flow_x_2.jpg", "flow_y_2.jpg", "notes.txt"):
        ...     (folder / name).touch()
        >>> [path.name for path in frame_paths(folder)]
        ['img_2.jpg', 'img_10.jpg']
    """
    series: dict[str, list[Path]] = {}
    videos: list[str] = []
    for entry in sorted(folder.iterdir()):
        if is_frame(entry):
            series.setdefault(re.sub(r"\d+", "#", entry.stem).lower(), []).append(entry)
        # An animation beside frames is a preview of them.
        elif entry.suffix.lower() in _VIDEO_FILES and entry.name[0] != ".":
            videos.append(entry.name)
    if videos:
        _check_videos_beside(folder, sum(map(len, series.values())), videos)
    if not any("#" in name for name in series):
        return sorted((path for paths in series.values() for path in paths), key=lambda path: path.name)
    frames = {name: paths for name, paths in series.items() if _FLOW.fullmatch(name) is None} or series
    if len(frames) > 1:
        # Who gives photographs to a model of videos has no series to keep.
        raise ValueError(
            f"the folder must hold the frames of one video; {_named(frames)}: move all but one, or where "
            "these are photographs and no frames, give videos or folders of frames"
        )
    (paths,) = frames.values()
    ordered = sorted((_numbers(path.stem), path.name, path) for path in paths)
    _check_numbers([(numbers, name) for numbers, name, _ in ordered])
    return [path for _, _, path in ordered]


def _check_videos_beside(folder: Path, num_pictures: int, videos: list[str]) -> None:
    """Warn of a video beside its frames; pictures beside as many videos are no frames, but covers of them.

    Raises:
        ValueError: There are no more pictures than videos.
    """
    if num_pictures <= len(videos):
        raise ValueError(
            f"the folder must hold the frames of one video; it holds pictures ({num_pictures}) and videos "
            f"({len(videos)}), such as {videos[0]}: name the videos one by one"
        )
    warnings.warn(
        f"{videos[0]} in {folder} is passed over: the {num_pictures} pictures beside it are taken for the "
        "frames of one video",
        UserWarning,
        stacklevel=3,
    )


def _named(series: dict[str, list[Path]]) -> str:
    largest = sorted(series.items(), key=lambda item: (-len(item[1]), item[0]))
    named = ", ".join(f"{min(paths).name} ({len(paths)})" for _, paths in largest[:_MOST_NAMED])
    return f"it holds {len(series)} kinds of names, {named}" + (", ..." if len(series) > _MOST_NAMED else "")


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", name)))


def _check_numbers(ordered: Iterable[tuple[tuple[int, ...], str]]) -> None:
    """Check that no number comes twice, and that none is missing where one number alone changes."""
    numbers, names = zip(*ordered, strict=True)
    for place in range(1, len(names)):
        if numbers[place - 1] == numbers[place]:
            raise ValueError(
                f"every frame must have a number of its own; {names[place - 1]} and {names[place]} have the "
                "same: remove one"
            )
    changing = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
    if len(changing) != 1:
        return
    steps = [after - before for before, after in zip(changing[0], changing[0][1:], strict=False)]
    # A missing frame means that the video was cut.
    usual = median_low(steps)
    for place, step in enumerate(steps):
        if step >= 2 * usual:
            raise ValueError(
                f"frames are missing between {names[place]} and {names[place + 1]}, where numbers rise by "
                f"{step} and mostly by {usual}: fetch them again, or if none is missing number them anew"
            )
