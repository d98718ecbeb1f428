"""Processes that answer a list, hold a part of it, or are killed at a step of their way."""

import json
import os
import subprocess
import sys

# Starts processes by forking, so that each costs no import. A child may be told to be killed at its n-th step
# on the way to a file that is there: before it is on the disk, before it has its name, or after. One that is
# to hold a part is answered for once it has it.
_PROGRAM = """
import json, os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from nonlocalnn.bulk import predict_list
from nonlocalnn.bulk.claims import Claims

def dying(function, after, count=[0]):
    def step(*values):
        for moment in (False, True):
            if moment:
                function(*values)
            count[0] += 1
            if count[0] == after:
                os.kill(os.getpid(), signal.SIGKILL)
    return step

running = set()
for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        running.remove(job["wait"])
        print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        continue
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if "hold" in job:
                claims = Claims(Path(job["hold"]))
                with claims.manifest():
                    pass
                assert claims.take(job["part"])
                os.write(writing, b".")
                if job["pause"]:
                    signal.pause()
            else:
                if die := job.pop("die", None):
                    os.fsync, os.replace = dying(os.fsync, die), dying(os.replace, die)
                predict_list(**job)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    os.close(writing)
    if "hold" in job:
        os.read(reading, 1)
    os.close(reading)
    running.add(pid)
    print(pid, flush=True)
# Left over by a test that failed.
for pid in running:
    os.kill(pid, signal.SIGKILL)
"""


class Starter:
    """Starts processes and waits for them.

    Example:
        ``starter.wait(starter.start(list_path=..., rank=1, world_size=2, die=8))`` is the exit status of
        ``predict_list`` with these arguments, which is killed at its eighth step.
    """

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def _ask(self, job):
        self.process.stdin.write(json.dumps(job, default=str) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, **job):
        """Return the number of a process that calls ``predict_list``; at step ``die`` it is killed."""
        return self._ask(job)

    def hold(self, folder, *, part, pause):
        """Return the number of a process that has a part of a folder, until it is killed or for a moment."""
        return self._ask({"hold": folder / ".claims", "part": part, "pause": pause})

    def wait(self, pid):
        """Return the exit status of a process when it has ended; minus the signal that killed it."""
        return self._ask({"wait": pid})

    def close(self):
        """End, and kill the processes that nobody waited for."""
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0
