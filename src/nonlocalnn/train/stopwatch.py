"""How long a device is busy with what one rank does by itself."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Adds up stretches of time: on a GPU by its own clock, which the host runs ahead of.

    Args:
        device: Where the work is done.

    Example:
        >>> watch = Stopwatch(torch.device("cpu"))
        >>> watch.start()
        >>> watch.stop()
        >>> watch.seconds() >= 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._began: float | torch.cuda.Event | None = None
        self._stretches: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def start(self) -> None:
        """Begin a stretch, unless one is under way."""
        if self._began is None:
            self._began = self._now()

    def stop(self) -> None:
        """End the stretch under way, if there is one."""
        began, self._began = self._began, None
        if began is None:
            return
        now = self._now()
        if isinstance(began, torch.cuda.Event) and isinstance(now, torch.cuda.Event):
            self._stretches.append((began, now))
        elif isinstance(began, float) and isinstance(now, float):
            self._seconds += now - began

    def seconds(self) -> float:
        """Return the sum of the stretches; on a GPU this waits for their end."""
        for began, ended in self._stretches:
            ended.synchronize()
            self._seconds += began.elapsed_time(ended) / 1000
        self._stretches.clear()
        return self._seconds

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
