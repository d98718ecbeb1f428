"""Rows of a list of videos: a path and a label, however the list was written."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nonlocalnn.data.folder_files import VIDEO_SUFFIXES

_LONGEST_REASON = 500
# What the columns of a list may be called in its first line.
_COLUMNS = {
    "path": "path paths file files filename file_name filepath file_path name video videos video_path "
    "video_name video_file clip frame_dir folder directory",
    "label": "label labels class classes class_name class_id target category label_id",
    "": "frames num_frames total_frames n_frames number_of_frames index",
}
_KIND_OF = {name: kind for kind, names in _COLUMNS.items() for name in names.split()}
# pandas writes the number of a row before it, under no name.
_KIND_OF |= {"": "", "unnamed: 0": ""}
_ENDINGS = "(?:" + "|".join(map(re.escape, VIDEO_SUFFIXES)) + ")"
_KINETICS = frozenset(("youtube_id", "time_start"))


@dataclass(frozen=True)
class Row:
    """A line of a list, cut at what divides it.

    Args:
        line: Its number, from 1.
        fields: What stands in it.
        divider: What divides it; a space stands for any number of them.
        exact: Whether a path cannot hold the divider: it was quoted, or is a tab or a semicolon.
        text: All of it.
    """

    line: int
    fields: tuple[str, ...]
    divider: str
    exact: bool
    text: str

    def before(self, last: int) -> str:
        """Return what stands before the last so many fields."""
        if self.exact:
            return self.divider.join(self.fields[:-last])
        return self.text.rsplit(None if self.divider == " " else self.divider, last)[0].strip()


def bad_row(path: Path, line: int, what: str) -> ValueError:
    """Return the error for a row that cannot be understood; lines count from 1."""
    return ValueError(f"{path}, line {line}: {what[:_LONGEST_REASON]}")


def read_rows(path: Path, lines: Iterator[tuple[int, str]], *, root: Path) -> list[tuple[int, Path, str]]:
    """Return the line, the video and the label of each row; see ``read_video_list``.

    Args:
        path: The list, for errors.
        lines: Its lines that are not blank, with their numbers.
        root: Where the videos are.

    Raises:
        ValueError: A row cannot be understood.
    """
    numbered = list(lines)
    rows = [_cut(path, line, text) for line, text in numbered]
    if rows and (columns := _header(path, rows[0])):
        rows = [_cut(path, line, text, rows[0].divider) for line, text in numbered[1:]]
        return [_named_columns(path, row, columns, root) for row in rows]
    counted = bool(rows) and all(map(_may_count, rows)) and not any(_is_there(row, root) for row in rows)
    found = [_last_columns(path, row, counted, root) for row in rows]
    _check_together(path, rows, found)
    return found


def _cut(path: Path, line: int, text: str, divider: str | None = None) -> Row:
    """Cut a line at tabs, semicolons, commas or spaces, in this order, where what comes last is a label."""
    if text.startswith('"') or re.search(r'[,;\t] ?"', text):
        outside = re.sub(r'"[^"]*"', "", text)
        divider = next((each for each in "\t;," if each in outside), " ")
        try:
            (fields,) = csv.reader([text], delimiter=divider, strict=True, skipinitialspace=True)
        except (csv.Error, ValueError) as error:
            raise bad_row(path, line, f"is not CSV: {error}") from error
        return Row(line, tuple(map(str.strip, fields)), divider, exact=True, text=text)
    for each in "\t;," if divider is None else divider.strip(" "):
        if each in text and (divider or not _is_path(text.rpartition(each)[2])):
            return Row(line, tuple(map(str.strip, text.split(each))), each, exact=each != ",", text=text)
    return Row(line, tuple(text.split()), " ", exact=False, text=text)


def _is_path(text: str) -> bool:
    """Return whether a text names a file, so that a divider before it belongs to the path."""
    return "/" in text or "\\" in text or any(_is_file(word) for word in text.split())


def _is_file(text: str) -> bool:
    return Path(text.strip()).suffix.lower() in VIDEO_SUFFIXES


def _header(path: Path, row: Row) -> tuple[str, ...] | None:
    """Return what the columns of a header are: "path", "label" or "", or None where the row is no header."""
    names = [name.lower() for name in row.fields]
    if set(names) >= _KINETICS:
        raise bad_row(path, row.line, "is the header of a list of Kinetics: read it with read_kinetics_csv")
    kinds = [_KIND_OF.get(name) for name in names]
    if kinds.count("path") != 1 or "label" not in kinds:
        return None
    if kinds.count("label") > 1 or None in kinds:
        raise bad_row(
            path,
            row.line,
            f"a header must name a path, a label and perhaps frames; got {', '.join(names)}: drop others",
        )
    return tuple(kind for kind in kinds if kind is not None)


def _named_columns(path: Path, row: Row, columns: Sequence[str], root: Path) -> tuple[int, Path, str]:
    fields = row.fields
    if len(fields) > len(columns) and columns[0] == "path" and not row.exact:
        # A path that is not quoted may hold commas or spaces.
        rest = len(columns) - 1
        fields = (row.before(rest), *fields[-rest:])
    if len(fields) != len(columns):
        raise bad_row(path, row.line, f"must have {len(columns)} values, as the header; it has {len(fields)}")
    video, label = (fields[columns.index(name)] for name in ("path", "label"))
    return _checked(path, row, video, label, root)


def _may_count(row: Row) -> bool:
    """Return whether a row may be a folder, the number of its frames and a label."""
    return len(row.fields) >= 3 and row.fields[-2].strip().isdecimal()


def _is_there(row: Row, root: Path) -> bool:
    """Return whether what stands before the label is a path, with the number at its end."""
    return not row.exact and _place(root, row.before(1)).exists()


def _last_columns(path: Path, row: Row, counted: bool, root: Path) -> tuple[int, Path, str]:
    last = 2 if counted else 1
    video = row.before(last) if len(row.fields) > last else ""
    several = "must be a path and a label, or a folder, its number of frames and a label"
    if row.exact and len(row.fields) != 1 + last:
        raise bad_row(path, row.line, f"{several}; it has {len(row.fields)} values")
    if counted and (_is_file(video) or video.rpartition(row.divider)[2].strip().isdecimal()):
        raise bad_row(path, row.line, f"{several}; got several numbers after {video!r}: leave one label")
    return _checked(path, row, video, row.fields[-1], root)


def _check_together(path: Path, rows: Sequence[Row], found: Sequence[tuple[int, Path, str]]) -> None:
    """Check what no line tells alone: one that is a header or a comment, and lines with their own numbers."""
    are_files = [_is_file(place.name) for _, place, _ in found]
    if any(are_files):
        for is_file, row, (line, place, _) in zip(are_files, rows, found, strict=True):
            # A folder of frames among files lies in another folder, as a rule.
            is_odd = not is_file and (row.text.startswith("#") or "/" not in row.text)
            if is_odd and not place.exists():
                what = f"{row.text!r} has no video's ending, as other lines have, and nothing is there"
                raise bad_row(path, line, f"{what}: leave comments out, and call columns path and label")
    numbers = [row.fields[0] for row in rows]
    are_counted = len(rows) > 1 and any(
        numbers == [str(place + first) for place in range(len(rows))] for first in (0, 1)
    )
    # Folders of frames may be called by numbers, too; names of classes come once each, in their own file.
    labels = [label for _, _, label in found]
    are_names = not any(label.isdecimal() for label in labels) and len(set(labels)) == len(labels)
    is_numbered = all(are_files) or are_names
    if are_counted and is_numbered and not any(place.exists() for _, place, _ in found):
        what = "begins with its number, as all lines do, and no such video is there"
        hint = "leave the numbers out; a list of classes is no list of videos"
        raise bad_row(path, rows[0].line, f"{rows[0].text!r} {what}: {hint}")


def _check_one_label(path: Path, row: Row, video: str, label: str) -> None:
    """Check that a row does not end in several labels, as ``0,1``: the last would count, or all as one."""
    several = re.fullmatch(r"\d+(?:[\s,;|+]+\d+)+", label)
    # What follows a video's file name before the last divider: nothing has such a path.
    after = re.match(rf"(.*?{_ENDINGS})[\s,;|]+(?!.*{_ENDINGS}$)(.+)", video, re.I)
    if several is None and after is None:
        return
    file, labels = (video, label) if after is None else (after[1], f"{after[2]}{row.divider}{label}")
    raise bad_row(
        path,
        row.line,
        f"must be a path and a label; got more after {file!r}: {labels!r}; leave one label, since only the "
        "lists of the data set 'charades' have several a video, or put the path in quotes",
    )


def _checked(path: Path, row: Row, video: str, label: str, root: Path) -> tuple[int, Path, str]:
    video, label = video.strip(), label.strip()
    if not video or not label:
        raise bad_row(path, row.line, f"must be a path and a label; got {row.text!r}")
    if _is_file(label):
        raise bad_row(path, row.line, f"the label must come last; got the file {label!r}")
    if video[0] == video[-1] == "'":
        raise bad_row(path, row.line, f'a path is quoted by ", as in CSV, or not; got {video}')
    _check_one_label(path, row, video, label)
    return row.line, _place(root, video), label


def _place(root: Path, video: str) -> Path:
    """Return where a video is; lists from Windows have backslashes in their paths."""
    place = root / video
    return root / video.replace("\\", "/") if "\\" in video and not place.exists() else place
