"""The rooms that are fuzzed, and running many cases of one without stopping at the first finding."""

import collections
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_blocks
import fuzz_checkpoints
import fuzz_media
import fuzz_networks
import fuzz_operation
import fuzz_texts
from fuzz_watch import limit_memory, time_limit
from hypothesis import HealthCheck, Phase, given, seed, settings

SECONDS_A_CASE = 20  # on a machine that others use, too
MEMORY = 3 << 30


@dataclass(frozen=True)
class Room:
    """Cases of one kind.

    Args:
        cases: Returns a strategy of hypothesis.
        check: Takes a case and a folder, and returns what came of it; anything it raises is a finding.
        share: Of all cases, how many of 100 are of this room.
        reads_files: Whether it reads files, and so runs in a process of its own with limits.
    """

    cases: Callable[[], Any]
    check: Callable[[Any, Path], str]
    share: int
    reads_files: bool


ROOMS = {
    "operation": Room(fuzz_operation.calls, fuzz_operation.check_call, 34, False),
    "blocks": Room(fuzz_blocks.blocks, fuzz_blocks.check_block, 16, False),
    "networks": Room(fuzz_networks.networks, fuzz_networks.check_network, 12, False),
    "checkpoints": Room(fuzz_checkpoints.files, fuzz_checkpoints.check_file, 20, True),
    "texts": Room(fuzz_texts.texts, fuzz_texts.check_text, 8, True),
    "images": Room(fuzz_media.images, fuzz_media.check_media, 7, True),
    "videos": Room(fuzz_media.videos, fuzz_media.check_media, 3, True),
}
_QUIET = {
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


def run_room(name, *, cases, number, folder):
    """Run cases and return how many had which outcome, and the findings."""
    room, counts, findings, slowest = ROOMS[name], collections.Counter(), [], 0.0
    if room.reads_files:
        limit_memory(MEMORY)

    @seed(number)
    @settings(max_examples=cases, phases=(Phase.generate,), **_QUIET)
    @given(room.cases())
    def every(case):
        nonlocal slowest
        # Where a library crashes, this is all that is left of the case.
        (folder / "case.txt").write_text(repr(case), encoding="utf-8", errors="backslashreplace")
        begin = time.monotonic()
        try:
            with warnings.catch_warnings(), time_limit(SECONDS_A_CASE):
                warnings.simplefilter("ignore")
                counts[room.check(case, folder)] += 1
        except Exception as error:
            counts["finding"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            findings.append(
                {
                    "case": repr(case)[:1000],
                    "error": f"{type(error).__name__}: {error}"[:500],
                    "place": f"{Path(place.filename).name}:{place.lineno}",
                }
            )
        slowest = max(slowest, time.monotonic() - begin)

    every()
    return {"outcomes": dict(counts), "findings": findings, "slowest_seconds": round(slowest, 2)}


def stop_at_first(name, *, cases, folder):
    """Run the same cases each time, and let a finding leave, made as small as it will go."""
    room = ROOMS[name]

    @settings(max_examples=cases, derandomize=True, print_blob=False, **_QUIET)
    @given(room.cases())
    def every(case):
        room.check(case, folder)

    every()
