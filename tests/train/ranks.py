"""Processes that train tiny recipes together: see tiny_process.py for what is said to them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("tiny_process.py")


def start():
    paths = os.pathsep.join([*filter(None, sys.path), str(SCRIPT.parent)])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
        start_new_session=True,
    )


def send(process, recipe, *, rank=0, world_size=1, resume=False, seconds=None, port=0, **task):
    job = {"recipe": recipe.to_dict(), "task": task, "resume": resume, "seconds": seconds}
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    job["environment"] = {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Ranks:
    """As many processes as were ever needed at once, started when they are."""

    def __init__(self):
        self._processes = []

    def __call__(self, recipe, *tasks, **job):
        """Train on one rank for each of ``tasks``, its arguments of TinyTask; return the ranks' answers."""
        while len(self._processes) < len(tasks):
            self._processes.append(start())
        port, mine = free_port(), self._processes[: len(tasks)]
        for rank, (process, task) in enumerate(zip(mine, tasks, strict=True)):
            send(process, recipe, rank=rank, world_size=len(tasks), port=port, **job, **task)
        return [json.loads(process.stdout.readline()) for process in mine]

    def close(self):
        for process in self._processes:
            process.communicate(timeout=30)
        assert [process.returncode for process in self._processes] == [0] * len(self._processes)
