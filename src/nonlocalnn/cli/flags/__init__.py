"""What is typed after each command, one module a command, each with a function ``parser``.

Nothing here imports torch, nor a module that does: help and the refusal of a wrong flag come at once.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nonlocalnn._errors import near_miss
from nonlocalnn._names import (
    DATASETS,
    INSTANTIATIONS,
    MASK_SETS,
    OBJECT_SETS,
    PRECISIONS,
    SPLITS,
    STEP_SETS,
    VOLUME_MASK_SETS,
)


class Formatter(argparse.HelpFormatter):
    """Breaks no flag at its hyphens, so that help spells flags as they are typed."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _RawFormatter(Formatter, argparse.RawDescriptionHelpFormatter):
    """Names a flag's value by what it is: ``--data-dir PATH`` and not ``--data-dir DATA_DIR``."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        named = {Path: "PATH", int: "N", float: "X"}
        return named.get(action.type, action.dest.upper().replace("_", "-"))  # type: ignore[call-overload]


class CommandParser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line: a usage of many lines above would hide it."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, complaint(self.prog, message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See the base class; a flag that there is not is named before what it leaves missing is."""
        # The flags of an action, such as those of `data check`, are known to its own parser.
        if args is not None and self._subparsers is None:
            check_flags(self, args, self._option_string_actions)
        return super().parse_known_args(args, namespace)


def complaint(program: str, message: str) -> str:
    """Return how a wrong call is refused: a line that names the command's help."""
    return f"{program}: {' '.join(message.split())}; see {program} --help\n"


def check_flags(parser: argparse.ArgumentParser, words: Sequence[str], known: Iterable[str]) -> None:
    """Exit with status 2 where a word is a flag that there is not.

    Args:
        parser: Which complains.
        words: What was typed.
        known: The flags; their beginnings are taken too, as long as they mean one of them.
    """
    flags = list(known)
    for word in words:
        if word == "--":
            return
        # Of --model-overrides.depth=50 the flag is what stands before the dot.
        flag = re.split(r"[=.+]", word)[0]
        if word.startswith("--") and not any(each.startswith(flag) for each in flags):
            # Not by the parser's error, which may spell flags anew: what was typed stays as it is.
            parser.exit(2, complaint(parser.prog, f"there is no flag {flag}{near_miss(flag, flags)}"))


def command_parser(name: str, description: str, example: str) -> CommandParser:
    """Return a parser whose help ends with an example."""
    return CommandParser(
        prog=f"nonlocalnn {name}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=_RawFormatter,
    )


def add_action(actions: Any, name: str, *, summary: str, description: str) -> argparse.ArgumentParser:
    """Add an action of a command, such as ``check`` of ``data``, and return its parser."""
    return actions.add_parser(name, help=summary, description=description, formatter_class=_RawFormatter)


def add_model(parser: argparse.ArgumentParser, *, precision: bool = True) -> None:
    """Add ``--model``, ``--device`` and perhaps ``--precision``."""
    parser.add_argument(
        "--model", required=True, type=Path, help="a checkpoint, or the folder of a run (its best weights)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    if precision:
        parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="default: fp32")


def add_data(parser: argparse.ArgumentParser, *, purpose: str, split: str = "test") -> None:
    """Add ``--data``, ``--data-dir`` and ``--split``, with its default."""
    names = (*DATASETS, *MASK_SETS, *VOLUME_MASK_SETS, *STEP_SETS, *OBJECT_SETS)
    parser.add_argument("--data", choices=names, metavar="NAME", help=f"{purpose}: {', '.join(names)}")
    parser.add_argument("--data-dir", type=Path, help="folder of the data set")
    parser.add_argument("--split", default=split, choices=SPLITS, help=f"default: {split}")


def add_views(parser: argparse.ArgumentParser, *, default: int) -> None:
    """Add ``--views``; what counts where it is left out is the command's."""
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, 30),
        help=f"of videos: the clip in the middle, or 10 clips x 3 crops (default: {default})",
    )


def add_window(parser: argparse.ArgumentParser) -> None:
    """Add ``--window``, of commands that take segmentation networks."""
    parser.add_argument(
        "--window",
        type=int,
        help="of segmentation: look at images by windows of this side, in pixels (default: whole images, or "
        "as the run was tested); at volumes in voxels",
    )


def add_whole(parser: argparse.ArgumentParser) -> None:
    """Add ``--whole``, of commands that draw an input."""
    parser.add_argument(
        "--whole",
        action="store_true",
        help="keep the aspect ratio and show all of it, instead of stretching an image and cutting a square "
        "out of a video",
    )


def add_rate(parser: argparse.ArgumentParser) -> None:
    """Add ``--rate``, of commands that draw an input."""
    parser.add_argument(
        "--rate",
        type=float,
        help="of sequences: steps a second, to show times in seconds (default: in steps)",
    )


def spelled_as_typed(text: str, parser: argparse.ArgumentParser) -> str:
    """Return a message with settings spelled as the flags that set them, where a command has those.

    Example:
        >>> from nonlocalnn.cli.flags.evaluate import parser
        >>> spelled_as_typed("max_broken must be at least 0; got -1", parser())
        '--max-broken must be at least 0; got -1'
        >>> spelled_as_typed("views must be 1 or 30; got 2", parser())
        '--views must be 1 or 30; got 2'
    """
    flags = {each.lstrip("-").replace("-", "_") for each in parser._option_string_actions}
    # A form of the block is a value, though an old flag of convert is called so.
    flags -= set(INSTANTIATIONS)
    # A single word, such as views, may be meant as a word, unless a message begins with what it must be.
    single = "|".join(sorted(each for each in flags if "_" not in each))
    text = re.sub(rf"^({single})(?= must | has an effect | needs )", r"--\1", text) if single else text
    # What lies in a path is no setting.
    names = "|".join(sorted((each for each in flags if "_" in each), key=len, reverse=True))
    return re.sub(
        rf"(?<![\w/.'-])({names})(?![\w/-]|\.\w)" if names else r"(?!)",
        lambda found: f"--{found[0].replace('_', '-')}",
        text,
    )
