"""The folder of results: parts, a manifest that says of what, and a list of what failed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nonlocalnn._files import atomic_path, remove_parts, write_text
from nonlocalnn.bulk.claims import Claims
from nonlocalnn.bulk.path_list import PathList


@dataclass(frozen=True)
class OutputFolder:
    """What several processes write together, and nothing else that they share.

    A part that is there is whole: it is written beside its place and renamed.

    Args:
        path: The folder.
        listed: The files that are asked about.
        run: What the results depend on, JSON-ready; results that depend on something else are never mixed
            with these.
    """

    path: Path
    listed: PathList
    run: dict[str, Any]

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
        width = max(6, len(str(self.listed.parts - 1)))
        return self.path / f"part-{number:0{width}}.jsonl"

    def open(self, claims: Claims) -> None:
        """Check that what is in the folder belongs to this run, and write its manifest where there is none.

        Raises:
            ValueError: The folder has results of another run, or parts without a manifest.
        """
        with claims.manifest():
            if self.manifest.exists():
                _check_same(self.path, self._read_manifest(), self.run)
                if all(self._are_there()):
                    return
                # It may have been complete, and parts taken away since to have them done again.
            elif stray := next(self.path.glob("part-*.jsonl"), None):
                raise ValueError(
                    f"{self.path} holds {stray.name} and no {self.manifest.name} that says of what it is a "
                    "part: take an empty folder"
                )
            write_text(self.manifest, _json(self.run))

    def is_finished(self, number: int) -> bool:
        """Return whether a part is there; what it holds is checked by :meth:`finish`."""
        return self.part(number).exists()

    def write(self, number: int, answers: Sequence[dict[str, Any]]) -> None:
        """Write a part: an answer a line."""
        write_text(self.part(number), "".join(f"{json.dumps(answer)}\n" for answer in answers))

    def finished_lines(self) -> int:
        """Return how many lines the parts that are there have, whoever wrote them."""
        # The last part has fewer; a display may be so much ahead.
        there = sum(name.startswith("part-") for name in os.listdir(self.path))
        return min(there * self.listed.part_size, self.listed.lines)

    def finish(self, claims: Claims) -> tuple[int, int | None]:
        """Complete the manifest and the list of failures if every part is there.

        Of a folder that was complete before, check that the parts are still those of its manifest.

        Returns:
            How many parts are missing, and, if none is, how many files could not be read.

        Raises:
            ValueError: A part is not what it was when it was written.
        """
        missing = sum(not there for there in self._are_there())
        if missing:
            return missing, None
        with claims.manifest():
            known = self._read_manifest().get("parts")
            rows = []
            with atomic_path(self.failures) as temporary, temporary.open("wb") as failures:
                for number in range(self.listed.parts):
                    rows.append(self._describe(number, failures))
                    if known is not None and rows[-1] != known[number]:
                        raise ValueError(
                            f"{self.part(number)} is not the file that {self.manifest.name} lists: delete it "
                            "and run again"
                        )
            failed = sum(row["failed"] for row in rows)
            write_text(self.manifest, _json({**self.run, "failed": failed, "parts": rows}))
            remove_parts(self.path)
        return 0, failed

    def _are_there(self) -> Iterator[bool]:
        names = set(os.listdir(self.path))
        return (self.part(number).name in names for number in range(self.listed.parts))

    def _read_manifest(self) -> dict[str, Any]:
        try:
            return json.loads(self.manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self.manifest} must be a manifest, and is none: take an empty folder"
            ) from error

    def _describe(self, number: int, failures: BinaryIO) -> dict[str, Any]:
        """Return a part's row of the manifest, and list its failures."""
        digest, lines, failed = hashlib.sha256(), 0, 0
        with self.part(number).open("rb") as opened:
            for line in opened:
                digest.update(line)
                lines += 1
                # In names, quotes have backslashes, so this is the key; other lines need not be parsed.
                if b'"error": ' in line:
                    answer = json.loads(line)
                    failed += 1
                    reason = " ".join(answer["error"].split())
                    failures.write(f"{answer['path']}\t{reason}\n".encode("utf-8", "surrogateescape"))
        path, expected = self.part(number), self.listed.size(number)
        if lines != expected:
            raise ValueError(
                f"{path} must have {expected} lines, one for each of its files; it has {lines}: delete it "
                "and run again"
            )
        return {"file": path.name, "lines": lines, "failed": failed, "sha256": digest.hexdigest()}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"


def _check_same(path: Path, found: dict[str, Any], run: dict[str, Any]) -> None:
    """Check that a manifest is of a run.

    Raises:
        ValueError: It is of another; the message names the first thing that differs.
    """
    for group, values in run.items():
        for name, value in values.items():
            other = found.get(group, {}).get(name)
            if other != value:
                raise ValueError(
                    f"{path} holds results of another run: {group} {name} was {other!r} and is {value!r}; "
                    "take another folder, or go on with what it was started with"
                )
