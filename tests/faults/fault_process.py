"""Training processes to be hurt: the command itself, and quick copies of a process that has imported all."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

from fault_points import Fault, install

SCRIPT = str(Path(__file__).resolve())
_PRELOADED = [
    "nonlocalnn.cli.train",
    "nonlocalnn.cli.recipe_parser",
    "sklearn.datasets",
    "torchvision.transforms.v2",
]


class Process:
    """A training process, or torchrun with several, in a session of its own.

    Args:
        words: What follows ``nonlocalnn train``.
        log: File of what it says.
        fault: What goes wrong inside.
        fresh: Start ``python -m nonlocalnn train``; else fork a process that has imported its modules.
        ranks: Processes that torchrun starts; 0 is no torchrun. More than 0 are always fresh.
        environment: Variables that differ from ours.
    """

    def __init__(self, words, *, log, fault=None, fresh=False, ranks=0, environment=None):
        self.log = Path(log)
        self.log.touch()
        self.ranks = ranks
        changes = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default::UserWarning", **(environment or {})}
        if fresh or ranks:
            self._popen, self._forked = self._start(words, fault, ranks, changes), None
            self.pid = self._popen.pid
        else:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(_PRELOADED)
            self._forked = context.Process(target=_forked, args=(words, str(log), fault, changes))
            self._forked.start()
            self.pid = self._forked.pid

    def _start(self, words, fault, ranks, changes):
        command = [sys.executable]
        if ranks:
            command += ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "0"]
            command += ["--nproc-per-node", str(ranks)]
        command += ["-m", "nonlocalnn"] if fault is None else [SCRIPT, json.dumps(dataclasses.asdict(fault))]
        with self.log.open("w") as log:
            return subprocess.Popen(
                [*command, "train", *words],
                stdout=log,
                stderr=log,
                env={**os.environ, **changes},
                start_new_session=True,
            )

    def wait(self, seconds):
        """Wait so long at most; return the exit status, negative for a signal, or None where it runs."""
        if self._forked is not None:
            self._forked.join(seconds)
            return self._forked.exitcode
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number):
        """Send a signal to the process alone, if it still runs."""
        if self.wait(0) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def signal_session(self, number):
        """Send a signal to all processes of the session, as a terminal does."""
        for pid in session(self.pid):
            # It may have ended since.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def session(leader):
    """Return the processes of a session that are not dead."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(number) == leader and state != "Z":
                members.append(int(entry.name))
    return members


def orphans(leaders, *, seconds):
    """Return the processes of these sessions that are still there after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        left = [pid for leader in leaders for pid in session(leader)]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)


def _forked(words, log, fault, changes):
    os.setsid()
    # The server of forked processes would have readers made by itself, too, and those are slow to start.
    multiprocessing.set_start_method("fork", force=True)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(changes)
    _train(["train", *words], fault)


def _train(words, fault):
    import torch

    from nonlocalnn.cli import main

    torch.set_num_threads(1)
    if fault is not None:
        install(fault)
    raise SystemExit(main(words))


if __name__ == "__main__":
    _train(sys.argv[2:], Fault(**json.loads(sys.argv[1])))
