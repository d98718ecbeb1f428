"""What a run leaves to read and to watch: a log in two formats, and a progress bar."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from nonlocalnn._errors import missing_extra
from nonlocalnn._files import write_text


def write_log(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write ``log.jsonl`` and ``log.csv``, one row an epoch.

    Both are written whole from the rows that the training state holds. So a run that goes on from an older
    state neither repeats a row nor leaves one out, whatever the files held.

    Args:
        folder: The run's folder.
        rows: Numbers by name. A row of an older version may lack names; its fields are empty then.
    """
    write_text(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "log.csv", table.getvalue())


class Bar(Protocol):
    """The part of a progress bar that the loop uses."""

    def update(self, n: int, /) -> object:
        """Move on by ``n`` steps."""

    def set_postfix_str(self, text: str, /) -> object:
        """Show ``text`` behind the bar."""

    def write(self, text: str, /) -> object:
        """Leave a line of text."""


class _NoBar:
    def update(self, n: int, /) -> None:
        pass

    def set_postfix_str(self, text: str, /) -> None:
        pass

    def write(self, text: str, /) -> None:
        pass


class _Lines(_NoBar):
    """Off a terminal a bar would fill a log file: only the lines stay."""

    def write(self, text: str, /) -> None:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(*, total: int, initial: int, show: bool | None) -> Iterator[Bar]:
    """Show optimiser steps on stderr.

    Args:
        total: Steps of the whole run.
        initial: Steps done already.
        show: True shows a bar and False nothing; None shows a bar on a terminal, and elsewhere only the lines
            that are left behind.

    Raises:
        ImportError: A bar is wanted and tqdm is not installed.
    """
    if show is None and not sys.stderr.isatty():
        yield _Lines()
        return
    if show is False:
        yield _NoBar()
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise missing_extra("tqdm", "train", "a progress bar") from None
    with tqdm(total=total, initial=initial, unit="step", file=sys.stderr) as bar:
        yield bar
