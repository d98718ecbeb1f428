"""Files of the UCR and UEA archives, ``.ts``: sequences as text, one a line, with their classes."""

from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn._errors import counted
from nonlocalnn.data.number_text import is_number, number_in

# Further words of the header say what the lines show by themselves.
_FLAGS = ("@timestamps", "@equallength", "@classlabel", "@targetlabel")


def is_text(path: Path) -> bool:
    """Return whether a ``.ts`` file holds sequences: videos have the same ending, and begin with a G."""
    with path.open("rb") as file:
        return file.read(16).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"#", b"@")


def read_ts(path: Path) -> tuple[list[Tensor], list[str] | None, tuple[str, ...]]:
    """Return the sequences of a file, the class of each, and the names of the classes in the header's order.

    A line holds the channels, divided by colons, with the values of each divided by commas, and the class
    after the last colon. Lines before ``@data`` begin with ``@`` or, where they say nothing, with ``#``.

    Args:
        path: The file.

    Returns:
        (C, L) each, float32; None in place of the classes where the header says that there are none.

    Raises:
        OSError: There is no such file.
        ValueError: It is no such file, is cut, holds no sequence, has missing values or time stamps, is of
            numbers instead of classes, or its channels are unequal. The message names the line.
    """
    header, lines = _parts(path)
    if header.get("@timestamps", ["false"])[0] == "true":
        raise ValueError(f"{path} gives a time for each value: sequences are read with equal steps only")
    if header.get("@targetlabel", ["false"])[0] == "true":
        raise ValueError(f"{path} has a number for each sequence, and no class: only classes are learnt")
    has_classes = header.get("@classlabel", ["false"])[0] == "true"
    classes = tuple(header["@classlabel"][1:]) if has_classes else ()
    sequences: list[Tensor] = []
    labels: list[str] = []
    for number, line in lines:
        place = f"{path}, line {number}"
        channels = line.split(":")
        if has_classes:
            label = channels.pop().strip()
            if label not in classes:
                raise ValueError(
                    f"{place} must end in a class of the header, {', '.join(classes[:8])}; got "
                    f"{label[:40]!r}: is the file cut?"
                )
            labels.append(label)
        sequences.append(_sequence(channels, place))
        first = sequences[0]
        if len(sequences[-1]) != len(first):
            raise ValueError(
                f"{place} must have {counted(len(first), 'channel')}, as the line before it; got "
                f"{len(sequences[-1])}"
            )
        if header.get("@equallength", [""])[0] == "true" and sequences[-1].shape != first.shape:
            raise ValueError(
                f"{place} has {sequences[-1].shape[1]} steps, the first sequence {first.shape[1]}, and the "
                "header says that all are equally long: is the file cut?"
            )
    if not sequences:
        raise ValueError(f"{path} holds no sequence after @data: is it cut?")
    return sequences, labels if has_classes else None, classes


def _parts(path: Path) -> tuple[dict[str, list[str]], list[tuple[int, str]]]:
    """Return the words after each word of the header, and the lines of data with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no .ts file: it is not text") from None
    header: dict[str, list[str]] = {}
    found = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for place, (number, line) in enumerate(found):
        if line.lower() == "@data":
            return header, found[place + 1 :]
        word, *rest = line.split()
        if word.lower() in _FLAGS and not rest:
            raise ValueError(f"{path}, line {number}: {word} must be followed by true or false")
        if line[0] not in "@#":
            break
        # Names of classes keep their letters; the flag before them may be written in any.
        header[word.lower()] = [each.lower() if not nth else each for nth, each in enumerate(rest)]
    raise ValueError(f"{path} has no line @data before its sequences: it is no .ts file, or is cut")


def _sequence(channels: list[str], place: str) -> Tensor:
    """Return the channels of a line as (C, L)."""
    rows = []
    for number, channel in enumerate(channels):
        values = channel.split(",")
        if any(value.strip() == "?" for value in values):
            raise ValueError(f"{place} misses a value ('?'): fill it first, or take the line out")
        try:
            rows.append([number_in(value) for value in values])
        except ValueError:
            wrong = next(value for value in values if not is_number(value))
            raise ValueError(f"{place}, channel {number}: {wrong.strip()[:40]!r} is no number") from None
        if len(rows[number]) != len(rows[0]):
            raise ValueError(
                f"{place}: the channels of a sequence must be equally long; channel {number} has "
                f"{len(rows[number])} values, channel 0 {len(rows[0])}"
            )
    if not rows:
        raise ValueError(f"{place} holds no channel: is the file cut?")
    return torch.tensor(rows)
