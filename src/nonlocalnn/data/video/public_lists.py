"""The lists that known data sets of videos come with: Kinetics, UCF101, HMDB51 and Charades.

Nothing is downloaded: put the videos below ``root`` yourself. ``VideoList.existing`` leaves out those that
could not be had.
"""

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nonlocalnn._errors import check_choice
from nonlocalnn.data.number_text import number_in
from nonlocalnn.data.video.list_rows import bad_row
from nonlocalnn.data.video.lists import (
    Span,
    VideoList,
    class_index,
    list_text,
    numbered_lines,
    one_label_each,
)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the last line, and the named columns, of each row of a CSV file with a header.

    Raises:
        ValueError: A column is missing, or a row has too few or too many values.
    """
    reader = csv.reader(io.StringIO(list_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in columns if name not in header]
        if missing:
            raise bad_row(
                path, 1, f"the header must name {', '.join(columns)}; it lacks {', '.join(missing)}"
            )
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise bad_row(path, reader.line_num, f"must have {len(header)} values; it has {len(row)}")
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise bad_row(path, reader.line_num, f"is not CSV: {error}") from error


def _whole_seconds(text: str, *, path: Path, line: int) -> int:
    if not text.strip().isdecimal():
        raise bad_row(path, line, f"times must be whole seconds; got {text!r}")
    return int(text)


def read_kinetics_csv(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    class_folders: bool = False,
) -> VideoList:
    r"""Read a CSV of Kinetics: ``label,youtube_id,time_start,time_end,split``.

    Args:
        path: The file, such as ``train.csv`` or ``val.csv``.
        root: Where the videos are, as ``{youtube_id}_{time_start:06d}_{time_end:06d}.mp4``.
        classes: Names of the classes in order. Default: the labels that occur, sorted.
        class_folders: Whether each video lies in a folder named after its label.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing, as ``label`` is for the test split; a time is not a whole number; a
            label is not among ``classes``; or no video is listed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "val.csv"
        >>> header = "label,youtube_id,time_start,time_end,split"
        >>> _ = path.write_text(f"{header}\ncurling hair,8Xaw0LkrzT0,3,13,val\n")
        >>> videos = read_kinetics_csv(path, root="val")
        >>> videos.paths[0].as_posix(), videos.classes
        ('val/8Xaw0LkrzT0_000003_000013.mp4', ('curling hair',))
    """
    path = Path(path)
    rows = []
    for line, row in _rows(path, ("label", "youtube_id", "time_start", "time_end")):
        label = row["label"].strip()
        if not label or not row["youtube_id"]:
            raise bad_row(path, line, "must have a label and a youtube_id; one of them is empty")
        start, end = (_whole_seconds(row[name], path=path, line=line) for name in ("time_start", "time_end"))
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
        rows.append((line, Path(root, label, name) if class_folders else Path(root, name), label))
    return one_label_each(path, rows, classes)


def read_ucf101_split(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str],
    classes_path: str | os.PathLike[str],
    suffix: str = ".avi",
) -> VideoList:
    """Read a split of UCF101, such as ``trainlist01.txt`` or ``testlist01.txt``.

    Args:
        path: The file. Lines are ``Class/video.avi 1``, where labels count from 1, or ``Class/video.avi``.
        root: Where the class folders are.
        classes_path: The file ``classInd.txt``, with lines such as ``1 ApplyEyeMakeup``.
        suffix: Ending of your files, where they have been converted.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A line cannot be understood, a class is unknown or is not that of the folder, or no video
            is listed.
    """
    path, classes_path = Path(path), Path(classes_path)
    classes: list[str] = []
    for line, text in numbered_lines(classes_path):
        number, _, name = text.partition(" ")
        if number != str(len(classes) + 1) or not name.strip():
            raise bad_row(classes_path, line, f"must be {len(classes) + 1} and a class; got {text!r}")
        classes.append(name.strip())
    rows = []
    for line, text in numbered_lines(path):
        video, _, label = text.partition(" ")
        folder, _, name = video.partition("/")
        if not name or (label and not label.strip().isdecimal()):
            raise bad_row(path, line, f"must be Class/video.avi, or that and a number; got {text!r}")
        target = class_index(folder, classes, path=path, line=line)
        if label and int(label) != target + 1:
            raise bad_row(
                path, line, f"class {folder!r} has number {target + 1} in {classes_path}; got {label}"
            )
        rows.append((line, Path(root, folder, name).with_suffix(suffix), folder))
    return one_label_each(path, rows, classes)


def read_hmdb51_split(
    folder: str | os.PathLike[str],
    *,
    split: str,
    number: int,
    root: str | os.PathLike[str],
    suffix: str = ".avi",
) -> VideoList:
    """Read a split of HMDB51 from its files, one a class: ``brush_hair_test_split1.txt``.

    Lines are ``name.avi 0``, 1 or 2: 1 is for training, 2 for the test, 0 in neither. Classes are those that
    have a file, sorted.

    Args:
        folder: Where the files are.
        split: ``"train"`` or ``"test"``.
        number: 1, 2 or 3.
        root: Where the class folders with the videos are.
        suffix: Ending of your files, where they have been converted.

    Raises:
        FileNotFoundError: There is no file for that number.
        ValueError: An argument is out of range, a line cannot be understood, or no video is listed.
    """
    check_choice("split", split, ("train", "test"))
    check_choice("number", number, (1, 2, 3))
    folder, ending = Path(folder), f"_test_split{number}.txt"
    paths = sorted(folder.glob(f"*{ending}"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no file of that split, such as brush_hair{ending}")
    classes = [path.name.removesuffix(ending) for path in paths]
    rows = []
    for path, name in zip(paths, classes, strict=True):
        for line, text in numbered_lines(path):
            video, _, use = text.rpartition(" ")
            if not video.strip() or use not in ("0", "1", "2"):
                raise bad_row(path, line, f"must be a video and 0, 1 or 2; got {text!r}")
            if use == ("1" if split == "train" else "2"):
                rows.append((line, Path(root, name, video.strip()).with_suffix(suffix), name))
    return one_label_each(folder, rows, classes)


def read_charades_csv(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str],
    classes_path: str | os.PathLike[str] | None = None,
) -> VideoList:
    r"""Read a CSV of Charades, such as ``Charades_v1_train.csv``; a video shows any number of 157 actions.

    Args:
        path: The file. Of its columns, ``id`` and ``actions`` are read: ``c092 11.90 21.20;c147 0.00 12.60``
            gives each action's number and its start and end in seconds.
        root: Where the videos are, as ``{id}.mp4``.
        classes_path: The file ``Charades_v1_classes.txt``, with lines such as ``c000 Holding some clothes``.
            Default: classes are called by their numbers.

    Returns:
        A list with ``multi_label`` and ``spans``; a video without actions has none.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A column is missing, a row cannot be understood, an action is unknown, or no video is
            listed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train.csv"
        >>> _ = path.write_text("id,actions\n46GP8,c092 11.90 21.20;c147 0.00 12.60\nN11GT,\n")
        >>> videos = read_charades_csv(path, root="Charades_v1_480")
        >>> videos.targets, len(videos.classes), videos.spans[0][1].end
        (((92, 147), ()), 157, 12.6)
    """
    path = Path(path)
    numbers = [f"c{number:03d}" for number in range(157)]
    classes = numbers if classes_path is None else _charades_classes(Path(classes_path), numbers)
    videos, spans = [], []
    for line, row in _rows(path, ("id", "actions")):
        if not row["id"]:
            raise bad_row(path, line, "must have an id; it is empty")
        videos.append(Path(root, f"{row['id']}.mp4"))
        actions = [text.strip() for text in row["actions"].split(";")]
        spans.append(tuple(_span(text, numbers, path=path, line=line) for text in actions if text))
    if not videos:
        raise ValueError(f"{path} lists no video")
    targets = tuple(tuple(sorted({span.target for span in several})) for several in spans)
    return VideoList(tuple(videos), targets, tuple(classes), multi_label=True, spans=tuple(spans))


def _charades_classes(path: Path, numbers: Sequence[str]) -> list[str]:
    classes = []
    for place, (line, text) in enumerate(numbered_lines(path)):
        number, _, name = text.partition(" ")
        if place >= len(numbers) or number != numbers[place] or not name.strip():
            raise bad_row(
                path, line, f"must be c000 to {numbers[-1]} in order, each with a name; got {text!r}"
            )
        classes.append(name.strip())
    if len(classes) != len(numbers):
        raise ValueError(f"{path} must name {len(numbers)} classes; it names {len(classes)}")
    return classes


def _span(text: str, numbers: Sequence[str], *, path: Path, line: int) -> Span:
    words = text.split()
    try:
        number, start, end = words[0], number_in(words[1]), number_in(words[2])
    except (IndexError, ValueError):
        number, start, end = "", math.nan, math.nan
    if len(words) != 3 or not math.isfinite(start) or not math.isfinite(end):
        raise bad_row(path, line, f"an action must be a class, a start and an end in seconds; got {text!r}")
    return Span(class_index(number, numbers, path=path, line=line), start, end)
