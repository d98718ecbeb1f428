"""Lists of labelled videos: a folder per class, or a text file; ``public_lists`` reads those of known sets.

Making a list opens no video. A row that cannot be understood is an error that names the file and the line.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nonlocalnn._errors import near_miss
from nonlocalnn._files import read_text
from nonlocalnn.data.folder_files import (
    ANIMATION_SUFFIXES,
    VIDEO_SUFFIXES,
    class_folders,
    files_by_class,
    is_ignored,
    warn_of_passed_over,
)
from nonlocalnn.data.video.frame_names import is_frame
from nonlocalnn.data.video.list_rows import bad_row, read_rows
from nonlocalnn.data.video.source import VideoPath

# Indices give classes their names, up to the largest: a slip of the pen must not make a million million.
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class Span:
    """What is done from when to when in a video.

    Args:
        target: Index of the class.
        start: Seconds from the start of the video.
        end: Seconds from the start of the video.
    """

    target: int
    start: float
    end: float


@dataclass(frozen=True)
class VideoList:
    """Videos and what each shows.

    Args:
        paths: The file of each video, the folder of its frames, or its part of an archive.
        targets: Index of each video's class; with ``multi_label`` a tuple of indices, which may be empty.
        classes: Names of the classes.
        multi_label: Whether a video may show several classes, or none.
        spans: Where the list tells, when each video shows what.

    Raises:
        ValueError: There is no video, as many targets as videos are not given, or a target is out of range.

    Example:
        >>> videos = VideoList(paths=(Path("a.mp4"), Path("b.mp4")), targets=(1, 0), classes=("run", "walk"))
        >>> len(videos), videos.target_sets
        (2, ((1,), (0,)))
    """

    paths: tuple[VideoPath, ...]
    targets: tuple[int, ...] | tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]
    multi_label: bool = False
    spans: tuple[tuple[Span, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("a list of videos must have at least one; it is empty")
        for name, values in (("targets", self.targets), ("spans", self.spans)):
            if values is not None and len(values) != len(self.paths):
                raise ValueError(f"there must be {len(self.paths)} {name}, one a video; got {len(values)}")
        for path, several in zip(self.paths, self.target_sets, strict=True):
            wrong = [target for target in several if not 0 <= target < len(self.classes)]
            if wrong:
                raise ValueError(
                    f"targets must be from 0 to {len(self.classes) - 1}, the indices of the classes; "
                    f"got {wrong[0]} for {path}"
                )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def target_sets(self) -> tuple[tuple[int, ...], ...]:
        """The classes of each video, however many it may show."""
        return tuple((each,) if isinstance(each, int) else each for each in self.targets)

    def existing(self) -> "VideoList":
        """Return the list without the videos that are not there.

        Public data sets lose videos over the years, and their lists do not follow.

        Raises:
            ValueError: None is there.
        """
        kept = [place for place, path in enumerate(self.paths) if path.exists()]
        if not kept:
            raise ValueError(f"none of the {len(self)} videos is there; the first would be {self.paths[0]}")
        return replace(
            self,
            paths=tuple(self.paths[place] for place in kept),
            # mypy does not see that one kind of target stays one kind.
            targets=tuple(self.targets[place] for place in kept),  # type: ignore[arg-type]
            spans=None if self.spans is None else tuple(self.spans[place] for place in kept),
        )


def list_text(path: str | os.PathLike[str]) -> str:
    """Return what a list file says, in UTF-8; a byte order mark is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such list of videos: {path}")
    return read_text(path)


def numbered_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line that is not blank."""
    for number, line in enumerate(list_text(path).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def class_index(name: str, classes: Sequence[str], *, path: Path, line: int) -> int:
    """Return the index of a class by its name.

    Raises:
        ValueError: There is no such class; the message names the place and the nearest spelling.
    """
    try:
        return classes.index(name)
    except ValueError:
        hint = near_miss(name, classes)
        raise bad_row(path, line, f"no class is called {name!r}{hint}; there are {len(classes)}") from None


def one_label_each(
    path: Path, rows: Sequence[tuple[int, Path, str]], classes: Sequence[str] | None
) -> VideoList:
    """Return the list of rows (line, video, name of its class).

    Args:
        path: The file that the rows come from, for errors.
        rows: The rows.
        classes: Names of the classes in order; ``None`` takes those that occur, sorted.

    Raises:
        ValueError: There is no row, or a name is not among ``classes``.
    """
    if not rows:
        raise ValueError(f"{path} lists no video")
    names = tuple(sorted({name for _, _, name in rows}) if classes is None else classes)
    # Searched once: there may be hundreds of classes and hundreds of thousands of rows.
    places = {name: place for place, name in enumerate(names)}
    targets = [
        places[name] if name in places else class_index(name, names, path=path, line=line)
        for line, _, name in rows
    ]
    return VideoList(tuple(video for _, video, _ in rows), tuple(targets), names)


def load_video_folder(root: str | os.PathLike[str]) -> VideoList:
    """List a folder that holds a folder per class.

    In a class folder each file with a video's ending is a video, and each folder of frame images too. All
    else is passed over with one warning that counts it; hidden files and leftovers of systems without.
    Classes are the names of the folders, sorted, and so are videos within them.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no folder, or a class folder holds no video.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("walk/1.mp4", "run/1.mp4", "run/2.mp4"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     (root / name).touch()
        >>> videos = load_video_folder(root)
        >>> videos.classes, videos.targets
        (('run', 'walk'), (0, 0, 1))
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder of videos: {root}")
    found, passed_over = files_by_class(
        root, is_video, what=f"no video ({', '.join(VIDEO_SUFFIXES)}) and no folder of frames"
    )
    warn_of_passed_over(root, passed_over, kind="videos or folders of frames")
    paths, targets = zip(*found, strict=True)
    return VideoList(paths, targets, tuple(folder.name for folder in class_folders(root)))


def is_video(entry: Path) -> bool:
    """Return whether a file has a video's ending, or a folder holds frame images and no such file.

    Ignored files (:func:`~nonlocalnn.data.folder_files.is_ignored`) are neither. A few
    animations (GIF, APNG) beside more frames are previews of them.
    """
    if is_ignored(entry):
        return False
    if not entry.is_dir():
        return is_video_file(entry)
    inside = list(entry.iterdir())
    num_frames = sum(map(is_frame, inside))
    # A picture beside videos is a cover or a thumbnail.
    videos = [each.suffix.lower() for each in inside if is_video_file(each)]
    return num_frames > len(videos) and set(videos) <= set(ANIMATION_SUFFIXES)


def is_video_file(entry: Path) -> bool:
    """Return whether a file, or what it is called, has a video's ending."""
    # By the ending, so that no file is opened to make a list.
    return not is_ignored(entry) and entry.suffix.lower() in VIDEO_SUFFIXES


def read_video_list(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
) -> VideoList:
    r"""Read a text file with a video and its label on each line.

    The two are divided by a tab, a semicolon, a comma or, in lines without one, by spaces; the label comes
    last. Values may be quoted as in CSV; a path that is not may hold spaces and commas. A first line that
    names its columns, such as ``path,label``, is a header, and says where they stand. Labels are the indices
    of classes, from 0, on every line, or names on every line. Blank lines are left out.

    Lines of three columns, ``folder frames label``, are read where the one in the middle is a number on every
    line and no path ends with it. The number of frames is not checked.

    Args:
        path: The file.
        root: Where the videos are; paths in the file are relative to it.
        classes: Names of the classes, in order. Give the training list's to the other lists, or their
            numbering will differ. Default: names that occur, sorted; for indices "0", "1" and so on.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line lacks a label or has more than that, it is a list of Kinetics, indices and names
            are mixed, a label is not among ``classes``, a video has two labels, or no video is listed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train.txt"
        >>> _ = path.write_text("a b.mp4, long jump\nc.mp4, run\n")
        >>> videos = read_video_list(path, root="videos")
        >>> videos.paths[0].as_posix(), videos.targets, videos.classes
        ('videos/a b.mp4', (0, 1), ('long jump', 'run'))
    """
    path = Path(path)
    rows = read_rows(path, numbered_lines(path), root=Path(root))
    numbered = [re.fullmatch(r"[+-]?\d+(\.0+)?", label) is not None for _, _, label in rows]
    if not any(numbered):
        return _without_conflict(path, rows, one_label_each(path, rows, classes))
    if not all(numbered):
        line = rows[numbered.index(not numbered[0])][0]
        raise bad_row(
            path, line, "labels must be indices on every line, or names on every line; here they change"
        )
    # Only so many digits: Python refuses to make a number of thousands of them. Tables write 3 as 3.0.
    targets = [int(label.partition(".")[0][:30]) for _, _, label in rows]
    most = _MOST_CLASSES if classes is None else len(classes)
    names = tuple(map(str, range(min(max(targets) + 1, most))) if classes is None else classes)
    for (line, _, _), target in zip(rows, targets, strict=True):
        if not 0 <= target < len(names):
            upper = f"to {most - 1}" + ("" if classes is None else ", the indices of the classes")
            upper = "up" if classes is None and target < 0 else upper
            raise bad_row(path, line, f"labels must be from 0 {upper}; got {target}")
    found = VideoList(tuple(video for _, video, _ in rows), tuple(targets), names)
    return _without_conflict(path, rows, found)


def _without_conflict(path: Path, rows: Sequence[tuple[int, Path, str]], found: VideoList) -> VideoList:
    """Return a list of videos in which none has two classes.

    Raises:
        ValueError: One has; the message names both lines.
    """
    first: dict[Path, tuple[int, object]] = {}
    for (line, video, label), target in zip(rows, found.targets, strict=True):
        before, known = first.setdefault(video, (line, target))
        if known != target:
            what = f"{video} has the label {label!r}, and another in line {before}: leave one of them"
            raise bad_row(path, line, what)
    return found
