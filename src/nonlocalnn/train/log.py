"""What a run leaves to read and to watch: a log in two formats, and a progress bar."""

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nonlocalnn._errors import missing_extra
from nonlocalnn._files import write_text
from nonlocalnn._progress import Bar, Lines, Silent


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


def check_tensorboard() -> None:
    """Check that TensorBoard's files can be written, before there is a training to lose.

    Raises:
        ImportError: TensorBoard is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401 - only to see whether it is there
    except ImportError as error:
        raise missing_extra("tensorboard", "tensorboard", "logs for TensorBoard") from error


def write_tensorboard(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the folder ``tensorboard`` with the numbers of the log, by optimiser step.

    As :func:`write_log` it writes all rows anew, so that a run that was resumed shows one line.

    Args:
        folder: The run's folder.
        rows: As :func:`write_log` takes them.
    """
    from torch.utils.tensorboard import SummaryWriter

    target, unfinished = folder / "tensorboard", folder / "tensorboard.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    with SummaryWriter(str(unfinished)) as writer:
        for row in rows:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    # TensorBoard groups by what stands before the slash.
                    part, _, rest = name.partition("_")
                    tag = f"{rest}/{part}" if part in ("train", "validation") else f"run/{name}"
                    writer.add_scalar(tag, value, row["step"])
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished, target)


def progress_bar(*, total: int, initial: int, show: bool | None) -> Lines:
    """Return what shows optimiser steps on stderr.

    Args:
        total: Steps of the whole run.
        initial: Steps done already.
        show: True shows a bar and False nothing; None shows a bar on a terminal, and elsewhere only the lines
            that are left behind. Without a working tqdm there are lines only.
    """
    if show is False:
        return Silent()
    if show is None and not (sys.stderr is not None and sys.stderr.isatty()):
        return Lines()
    return Bar(total=total, initial=initial, unit="step")
