"""Answers by the workers of Ray: on every core or GPU of a machine, or on many machines."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nonlocalnn._errors import check_choice, check_positive, needs, one_line
from nonlocalnn.inference.bulk.answers import AnswerPaths

# Ray's actor pool and not Ray Data: paths go in and answers come out, so that nothing is to be streamed, and
# `map_batches` of Ray 2.60 asks a killed worker's files again without end.
# A file that kills its worker kills it again: after so many more tries the run ends with an error. So it does
# after so many kills of one worker, which may come while it loads the model.
_RETRIES = 3
_RESTARTS = 20
# Loading a model takes less. A worker that is not there by then never gets its CPU or GPU.
_START_SECONDS = 300.0
# So often it is looked whether the cluster still has room for all workers while no answer comes.
_LOOK_SECONDS = 30.0


@dataclass(frozen=True)
class RayWorkers:
    """Workers that have loaded the model; see :func:`ray_workers`.

    Args:
        device: Where each has its model: "cpu", or "cuda" for a GPU of its own.
        pool: A ``ray.util.ActorPool`` of them.
        size: How many there are.
    """

    device: str
    pool: Any
    size: int

    def answers(self, names: Sequence[str], units: Iterable[range]) -> Iterator[tuple[int, str]]:
        """Yield the number of each path in a list and its answer, each once, in the order in which they come.

        Raises:
            ChildProcessError: A worker failed, or was killed again and again.
            ValueError: Machines have left the cluster, and it has no room for all workers any more.
        """
        import ray

        def ask(worker: Any, unit: range) -> Any:
            # As bytes: Ray does not send strings that are no text.
            paths = [os.fsencode(names[line]) for line in unit]
            return worker.__call__.remote({"line": list(unit), "path": paths})

        for unit in units:
            self.pool.submit(ask, unit)
        while self.pool.has_next():
            try:
                batch = self.pool.get_next_unordered(timeout=_LOOK_SECONDS)
            except TimeoutError:
                _check_room(self.size, self.device, ray.cluster_resources())
                continue
            except ray.exceptions.RayError as error:
                raise ChildProcessError(
                    f"a worker of Ray failed, or was killed {_RETRIES + 1} times at the same files: "
                    f"{one_line(error)}; finished parts stay, and the same command goes on"
                ) from error
            yield from zip(batch["line"], batch["answer"], strict=True)


@contextmanager
def ray_workers(settings: Mapping[str, Any], *, workers: int | None, device: str) -> Iterator[RayWorkers]:
    """Start workers on the cluster that this process or machine is part of, else on a new one here.

    A worker takes a CPU and, where the cluster has GPUs, one of them. When it is killed, Ray starts it again
    and gives it the files that it had.

    Args:
        settings: Of :class:`~nonlocalnn.inference.bulk.answers.AnswerPaths`, but for the device.
        workers: How many; by default as many as the cluster has room for.
        device: "auto", "cpu" or "cuda".

    Raises:
        ImportError: Ray is not installed.
        ValueError: The cluster has no room for so many.
        TimeoutError: Others hold what the workers need.
        ChildProcessError: A worker could not load the model.
    """
    check_choice("device", device, ("auto", "cpu", "cuda"))
    if workers is not None:
        check_positive(workers=workers)
    with needs("ray", "ray", "engine 'ray'"):
        import ray
        from ray.util import ActorPool
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(logging_level=logging.WARNING)
    started: list[Any] = []
    try:
        there = ray.cluster_resources()
        used = "cuda" if device == "auto" and there.get("GPU", 0) >= 1 else device.replace("auto", "cpu")
        size = max(1, _room(used, there)) if workers is None else workers
        _check_room(size, used, there)
        worker = ray.remote(AnswerPaths).options(
            num_cpus=1, num_gpus=int(used == "cuda"), max_restarts=_RESTARTS, max_task_retries=_RETRIES
        )
        started += [worker.remote(**settings, device=used) for _ in range(size)]
        _wait_for(started)
        yield RayWorkers(used, ActorPool(started), size)
    finally:
        for each in started:
            ray.kill(each)
        if is_ours:
            ray.shutdown()


def _room(device: str, there: Mapping[str, float]) -> int:
    """Return how many workers a cluster has room for, by its numbers of "CPU" and "GPU"."""
    return int(min(there.get(kind, 0) for kind in (("CPU", "GPU") if device == "cuda" else ("CPU",))))


def _check_room(workers: int, device: str, there: Mapping[str, float]) -> None:
    """Check that there is room for so many workers: Ray would wait for it for ever."""
    if workers > (room := _room(device, there)):
        takes = "a CPU and a GPU" if device == "cuda" else "a CPU"
        raise ValueError(
            f"workers must be at most {room}: each takes {takes} of Ray's cluster, which has no more; "
            f"got {workers}"
        )


def _wait_for(started: Sequence[Any]) -> None:
    import ray

    ready = [worker.__ray_ready__.remote() for worker in started]
    try:
        ray.get(ready, timeout=_START_SECONDS)
    except TimeoutError as error:
        running = len(ray.wait(ready, num_returns=len(ready), timeout=0)[0])
        raise TimeoutError(
            f"Ray has started {running} of {len(started)} workers in {_START_SECONDS:g} s: end what else "
            "runs on its cluster, or take fewer workers"
        ) from error
    except ray.exceptions.RayError as error:
        raise ChildProcessError(f"a worker of Ray could not load the model: {one_line(error)}") from error
