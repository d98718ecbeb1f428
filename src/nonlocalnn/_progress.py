"""Progress bars on stderr. A bar never makes a program fail: without a working tqdm there is no bar."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

from nonlocalnn._errors import missing_extra, one_line


class Lines:
    """No bar; only lines of text are printed. Where stderr is a log file, a bar would fill it."""

    def update(self, n: int, /) -> None:
        """Move on by ``n`` steps."""

    def set_postfix_str(self, text: str, /) -> None:
        """Show ``text`` behind the bar."""

    def write(self, text: str, /) -> None:
        """Print a line of text."""
        with suppress(OSError, ValueError):  # stderr is closed
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Silent(Lines):
    """No bar and no lines."""

    def write(self, text: str, /) -> None:
        """Print nothing."""


class Bar(Lines):
    """A bar of tqdm. At its first error the bar is dropped, and a line says so.

    Args:
        settings: Of ``tqdm``.
    """

    def __init__(self, **settings: Any) -> None:
        self._bar: Any = None
        try:
            from tqdm import tqdm

            self._bar = tqdm(file=sys.stderr, **settings)
        except Exception as error:  # a broken installation may raise anything
            self._give_up(error)

    def update(self, n: int, /) -> None:
        """Move on by ``n`` steps."""
        self._call("update", n)

    def set_postfix_str(self, text: str, /) -> None:
        """Show ``text`` behind the bar."""
        self._call("set_postfix_str", text)

    def write(self, text: str, /) -> None:
        """Print a line of text above the bar."""
        if self._bar is None:
            super().write(text)
        else:
            self._call("write", text, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        self._call("close")

    def _call(self, name: str, *values: Any, **named: Any) -> None:
        if self._bar is None:
            return
        try:
            getattr(self._bar, name)(*values, **named)
        except Exception as error:  # a closed terminal, or a broken tqdm
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._bar = None
        is_missing = isinstance(error, ModuleNotFoundError)
        why = missing_extra("tqdm", "train", "it") if is_missing else one_line(error)
        super().write(f"no progress bar: {why}")


def progress(items: Iterable[Any], *, total: int, label: str) -> Iterator[Any]:
    """Yield ``items`` and show a progress bar on stderr, on a terminal only."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    with Bar(total=total, desc=label, leave=False) if shown else Silent() as bar:
        for item in items:
            yield item
            bar.update(1)
