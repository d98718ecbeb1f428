"""Processes that train tiny recipes together: see tiny_process.py for what is said to them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from meeting import meeting_point

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


def send(process, recipe, *, environment=None, resume=False, seconds=None, **task):
    job = {"recipe": recipe.to_dict(), "task": task, "resume": resume, "seconds": seconds}
    job["environment"] = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", **(environment or {})}
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()


class Ranks:
    """As many processes as were ever needed at once, started when they are."""

    def __init__(self):
        self._processes = []

    def __call__(self, recipe, *tasks, **job):
        """Train on one rank for each of ``tasks``, its arguments of TinyTask; return the ranks' answers."""
        while len(self._processes) < len(tasks):
            self._processes.append(start())
        store, meeting = meeting_point()
        mine = self._processes[: len(tasks)]
        for rank, (process, task) in enumerate(zip(mine, tasks, strict=True)):
            names = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(tasks))}
            send(process, recipe, environment={**meeting, **names}, **job, **task)
        answers = [self._answer(process) for process in mine]
        # The ranks have met in it until here.
        del store
        return answers

    def _answer(self, process):
        line = process.stdout.readline()
        if not line:
            # The others wait for the one that died; the next test gets new ones.
            ended, self._processes = self._processes, []
            for each in ended:
                each.kill()
                each.communicate()
            raise RuntimeError("a rank died: what it said is in the captured output")
        return json.loads(line)

    def close(self):
        for process in self._processes:
            process.communicate(timeout=30)
        assert [process.returncode for process in self._processes] == [0] * len(self._processes)


def workers(runner):
    """Return the processes that a process started, by its threads' lists of children."""
    lists = Path(f"/proc/{runner}/task").glob("*/children")
    return [int(number) for path in lists for number in path.read_text().split()]
