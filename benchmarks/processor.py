"""``ops --core`` on one processor as it is and with narrower instructions, with one thread and with all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import report as tables
from benchmarks.about import about
from benchmarks.rows import Row

# Instructions are chosen where libraries are loaded, by PyTorch, oneDNN and MKL each by a word of its own.
_NARROW = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
_LEGEND = """\
Each cell holds our median time of a pass in ms, and how many times as long the fastest other way took: a
plain block as it is or under `torch.compile`, one that calls PyTorch's attention, mmcv's or timm's, where
they have such a block and are installed. **Bold** is a loss."""
_CLONE = Path(__file__).resolve().parents[1]


def run(
    *,
    output: Path,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Measure each setting in a process of its own; what an earlier call finished is not measured again.

    Args:
        output: Folder of the results; that of each setting lies in one below it.
        quick: Tiny shapes and one thread: shows that everything works, and says nothing of speed.
        progress: Takes a line for each setting.
        save: Takes the report after each setting.

    Returns:
        The report, as JSON can hold it: "about", and in "settings" by name, such as "AVX2, 1 thread", what
        :func:`benchmarks.ops.run` returned.

    Raises:
        ValueError: A measurement failed.
    """
    found: dict[str, Any] = {"about": about(device="cpu", dtype="float32", quick=quick), "settings": {}}
    for number, (instructions, threads) in enumerate(_settings(quick)):
        folder = output / f"processor-{number}"
        words = [sys.executable, "-m", "benchmarks", "ops", "--quick" if quick else "--core"]
        done = subprocess.run(
            [*words, "--output", str(folder.resolve())],
            cwd=_CLONE,
            env={
                **os.environ,
                **instructions,
                "OMP_NUM_THREADS": str(threads),
                # Kernels that were compiled for other instructions gave infinite numbers.
                "TORCHINDUCTOR_CACHE_DIR": str((folder / "compiled").resolve()),
            },
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            raise ValueError(
                f"the measurement failed, see above: threads {threads}, limits {dict(instructions) or 'none'}"
            )
        measured = json.loads((folder / "ops.json").read_text(encoding="utf-8"))
        name = f"{measured['about']['instructions']}, {threads} thread{'s' if threads > 1 else ''}"
        found["settings"][name] = measured
        progress(f"{name}: measured")
        save(found)
    return found


def _settings(quick: bool) -> Iterator[tuple[Mapping[str, str], int]]:
    """Yield the environment and the number of threads of each setting."""
    # A processor without AVX-512 has nothing narrower that anyone would run on.
    narrower = [_NARROW] if torch.backends.cpu.get_cpu_capability() == "AVX512" and not quick else []
    for instructions in ({}, *narrower):
        yield instructions, 1
        if not quick and torch.get_num_threads() > 1:
            yield instructions, torch.get_num_threads()


def markdown(report: Mapping[str, Any]) -> str:
    """Return the page's text below its title.

    Args:
        report: What :func:`run` returned.
    """
    settings = report["settings"]
    conditions = [f"- {name}: {tables.conditions(measured['about'])}" for name, measured in settings.items()]
    parts = ["\n".join(conditions), _LEGEND]
    counts = []
    for name, measured in settings.items():
        ratios = [tables.fastest_rival(row)[1] for row in _rows(measured)]
        lost, clearly = (sum(ratio < limit for ratio in ratios) for limit in (1, 1 / tables.NOISE))
        counts.append([name, f"{len(ratios)}", f"{lost}", f"{clearly}", tables.digits(min(ratios))])
    parts.append(tables.table(["setting", "cells", "lost", "lost by over 2 %", "least"], counts))
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for name, measured in settings.items():
        for row in _rows(measured):
            shape = " x ".join(map(str, row["shape"]))
            key = (row["form"], shape, f"{row['queries']}", f"{row.get('logits', 1):g}", row["direction"])
            rows.setdefault(key, {})[name] = _cell(row)
    head = ["form", "input", "N", "logits", "direction", *settings]
    parts.append(
        tables.table(
            head, [[*key, *(cells.get(name, "") for name in settings)] for key, cells in rows.items()]
        )
    )
    slowed = [
        f"- {name}: {line}"
        for name, measured in settings.items()
        for line in tables.slowed_by_compiling(_rows(measured))
    ]
    if slowed:
        parts += [f"Under `torch.compile` ours is slower in {len(slowed)} cells:", "\n".join(slowed)]
    return "\n\n".join(parts)


def _rows(measured: Mapping[str, Any]) -> list[Row]:
    return [*measured["grid"], *measured["operator"]]


def _cell(row: Row) -> str:
    name, ratio = tables.fastest_rival(row)
    if not name:
        return "not timed"
    shown = f"{tables.digits(ratio)} {name}"
    return (
        f"{tables.digits(1000 * row['seconds']['ours']['median'])}, {f'**{shown}**' if ratio < 1 else shown}"
    )
