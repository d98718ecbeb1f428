"""The folder of results: parts, a manifest that says of what, and a list of what failed."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nonlocalnn._files import atomic_path, remove_parts, write_text


@dataclass(frozen=True)
class OutputFolder:
    """What a run writes. A part that is there is whole: it is written beside its place and renamed.

    Args:
        path: The folder.
        num_lines: Paths that are asked about.
        part_size: Paths of each part but the last.
        run: What the results depend on, JSON-ready; results that depend on something else are never mixed
            with these.
    """

    path: Path
    num_lines: int
    part_size: int
    run: dict[str, Any]

    @property
    def num_parts(self) -> int:
        """Into how many parts the list is cut."""
        return -(-self.num_lines // self.part_size)

    @property
    def manifest(self) -> Path:
        """Where it is said what the folder holds."""
        return self.path / "manifest.json"

    @property
    def failures(self) -> Path:
        """Where the files that could not be read are listed, each with its reason after a tab."""
        return self.path / "failed.txt"

    def part(self, number: int) -> Path:
        """Return where a part is, or will be."""
        # Sorted by name they are in the order of the list.
        width = max(6, len(str(self.num_parts - 1)))
        return self.path / f"part-{number:0{width}}.jsonl"

    def lines(self, number: int) -> range:
        """Return which paths of the list a part has."""
        start = number * self.part_size
        return range(start, min(start + self.part_size, self.num_lines))

    def open(self) -> None:
        """Make the folder where it is missing, and write its manifest where there is none.

        Raises:
            ValueError: The folder has results of another run, or parts without a manifest.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.manifest.exists():
            _check_same(self.path, self._read_manifest(), self.run)
            return
        if stray := next(self.path.glob("part-*.jsonl"), None):
            raise ValueError(
                f"{self.path} holds {stray.name} and no {self.manifest.name} that says of what it is a "
                "part: take an empty folder"
            )
        write_text(self.manifest, json.dumps(self.run, indent=1) + "\n")

    def missing(self, most: int) -> list[range]:
        """Return which paths have no answer yet, as ranges of ``most`` or fewer; none crosses a part."""
        there = set(os.listdir(self.path))
        lines = [self.lines(n) for n in range(self.num_parts) if self.part(n).name not in there]
        return [each[start : start + most] for each in lines for start in range(0, len(each), most)]

    def write(self, answers: Iterable[tuple[int, str]]) -> Iterator[int]:
        """Write each part once its last answer has come; yield how many paths have answers.

        Args:
            answers: The number of a path in the list and its answer, each once and in any order.
        """
        waiting: defaultdict[int, dict[int, str]] = defaultdict(dict)
        done = self.num_lines - sum(map(len, self.missing(self.part_size)))
        yield done
        for line, answer in answers:
            number = line // self.part_size
            waiting[number][line] = answer
            if len(waiting[number]) == len(self.lines(number)):
                rows = waiting.pop(number)
                write_text(self.part(number), "".join(f"{rows[line]}\n" for line in self.lines(number)))
            done += 1
            yield done

    def finish(self) -> int:
        """Write the list of failures, now that every part is there, and return how many there are.

        Raises:
            ValueError: A part has not as many lines as it was written with.
        """
        with atomic_path(self.failures) as temporary, temporary.open("wb") as failures:
            failed = sum(self._list_failures(number, failures) for number in range(self.num_parts))
        remove_parts(self.path)
        return failed

    def _read_manifest(self) -> dict[str, Any]:
        try:
            return json.loads(self.manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self.manifest} must be a manifest, and is none: take an empty folder"
            ) from error

    def _list_failures(self, number: int, failures: BinaryIO) -> int:
        lines = failed = 0
        with self.part(number).open("rb") as opened:
            for line in opened:
                lines += 1
                # In names, quotes have backslashes, so this is the key; other lines need not be parsed.
                if b'"error": ' in line:
                    answer = json.loads(line)
                    failed += 1
                    reason = " ".join(answer["error"].split())
                    failures.write(f"{answer['path']}\t{reason}\n".encode("utf-8", "surrogateescape"))
        if lines != len(self.lines(number)):
            raise ValueError(
                f"{self.part(number)} must have {len(self.lines(number))} lines, one for each of its files; "
                f"it has {lines}: delete it and run again"
            )
        return failed


def _check_same(path: Path, found: dict[str, Any], run: dict[str, Any]) -> None:
    """Check that a manifest is of a run."""
    for group, values in run.items():
        for name, value in values.items():
            other = found.get(group, {}).get(name)
            if other != value:
                raise ValueError(
                    f"{path} holds results of another run: {group} {name} was {other!r} and is {value!r}; "
                    "take another folder, or go on with what it was started with"
                )
