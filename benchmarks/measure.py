"""Time and peak memory of a piece of work."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CHILD = "from benchmarks.measure import report_own_peak; report_own_peak()"
# Python looks for modules in the folder where it is started: this package lies in the clone's.
_CLONE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Timing:
    """Times of several runs, in seconds.

    Args:
        median: Half of the runs took less.
        q1: A quarter took less.
        q3: Three quarters took less.
        runs: How many were timed.
    """

    median: float
    q1: float
    q3: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summarise the times of single runs, at least one."""
        quarters = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        return cls(statistics.median(seconds), quarters[0], quarters[2], len(seconds))


def time_call(
    function: Callable[[], object],
    *,
    min_seconds: float = 1.0,
    min_runs: int = 3,
    max_runs: int = 30,
    device: str = "cpu",
) -> Timing:
    """Time one function; see :func:`time_together`.

    Example:
        >>> time_call(lambda: sum(range(100)), min_seconds=0, min_runs=4).runs
        4
    """
    return time_together(
        {"it": function}, min_seconds=min_seconds, min_runs=min_runs, max_runs=max_runs, device=device
    )["it"]


def time_together(
    functions: Mapping[str, Callable[[], object]],
    *,
    min_seconds: float = 1.0,
    min_runs: int = 3,
    max_runs: int = 30,
    device: str = "cpu",
) -> dict[str, Timing]:
    """Time several functions in turn, so that whatever else the machine does meets all of them alike.

    Each is called once unmeasured. The order turns round from round to round, so that none always runs after
    the same other one.

    Args:
        functions: What to time, by name.
        min_seconds: A function leaves the rounds once it has run for so long altogether, in seconds ...
        min_runs: ... and so often,
        max_runs: or so often in any case.
        device: "cuda" measures by events on the device.

    Returns:
        A timing for each name.

    Raises:
        ValueError: ``min_runs`` is below 1 or above ``max_runs``.
    """
    if not 1 <= min_runs <= max_runs:
        raise ValueError(f"min_runs must be from 1 to max_runs = {max_runs}; got {min_runs}")
    clock = _cuda_seconds if torch.device(device).type == "cuda" else _cpu_seconds
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    while names:
        for name in names:
            seconds[name].append(clock(functions[name]))
        names = [
            name
            for name in reversed(names)
            if len(seconds[name]) < min_runs
            or (len(seconds[name]) < max_runs and sum(seconds[name]) < min_seconds)
        ]
    return {name: Timing.of(times) for name, times in seconds.items()}


def peak_memory(
    prepare: str, arguments: Mapping[str, Any], *, device: str = "cpu", timeout: float | None = None
) -> int:
    """Return how far one call raises memory above what was in use before it, in bytes.

    A fresh process prepares the work, does it once at a tiny size, so that what libraries set up the first
    time is not counted, and then once in full. On the CPU this is resident memory, by Linux's high-water
    mark, or by that of ``getrusage`` elsewhere; the allocator has its defaults, and gives back what it can
    before the work starts. On CUDA it is what PyTorch's allocator handed out.

    Args:
        prepare: "module:function". It is called in the fresh process and returns two functions without
            arguments, the tiny work and the full one; what they need is held by them already.
        arguments: Keyword arguments of ``prepare``, as JSON can hold them.
        device: Whose memory.
        timeout: Seconds after which the process is given up; None waits for ever.

    Raises:
        MemoryError: The process was killed, as the system does when memory runs out.
        ValueError: The work failed, or took too long; the message holds the last line of its error.
    """
    order = {
        "prepare": prepare,
        "arguments": dict(arguments),
        "device": device,
        "threads": torch.get_num_threads(),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            cwd=_CLONE,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"took longer than {timeout:.0f} s") from None
    if done.returncode < 0:
        raise MemoryError(f"the process was ended by signal {-done.returncode}: memory ran out, probably")
    if done.returncode > 0:
        raise ValueError((done.stderr.strip().splitlines() or ["failed without a word"])[-1])
    return int(done.stdout.split()[-1])


def report_own_peak() -> None:
    """Do the work that stdin describes and print its peak in bytes; what :func:`peak_memory` runs."""
    order = json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    module, _, name = order["prepare"].partition(":")
    warm, work = getattr(importlib.import_module(module), name)(**order["arguments"])
    warm()
    gc.collect()
    device = torch.device(order["device"])
    print(_cuda_peak(work, device) if device.type == "cuda" else resident_peak(work))


def _cuda_peak(work: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def resident_peak(work: Callable[[], object]) -> int:
    """Return how far a call raises this process's resident memory above what was in use, in bytes."""
    if sys.platform == "linux":
        # What was freed while preparing would else be used again, and not be seen to grow.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    try:
        _CLEAR.write_text("5")  # sets the high-water mark back to what is resident now
        before = _status("VmRSS")
        work()
        return _status("VmHWM") - before
    except OSError:
        import resource  # which Windows lacks

        unit = 1 if sys.platform == "darwin" else 1024
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest) * unit


def _status(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _cpu_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_seconds(function: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
