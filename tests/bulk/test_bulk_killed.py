"""A loop that is killed goes on where it was."""

import json
import os
import signal
import subprocess
import sys

import pytest
from bulk_runs import contents, settings

# A child is killed at its n-th step on the way to a file: before it is on the disk, before it has its name,
# or after. It is made by forking, which costs no import. The next one finds what this one leaves.
_PROGRAM = """
import json, os, signal, sys, torch
from nonlocalnn.inference.bulk import predict_list
torch.set_num_threads(1)

def dying(function, after, count=[0]):
    def step(*values):
        for moment in (False, True):
            if moment:
                function(*values)
            count[0] += 1
            if count[0] == after:
                os.kill(os.getpid(), signal.SIGKILL)
    return step

job, steps = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for step in steps:
    pid = os.fork()
    if pid == 0:
        try:
            os.fsync, os.replace = dying(os.fsync, step), dying(os.replace, step)
            predict_list(**job)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(status, flush=True)
    if status == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "steps",
    [
        range(1, 100, 5),
        pytest.param(range(1, 100), marks=pytest.mark.slow),
        pytest.param([8] * 20, marks=pytest.mark.slow),
    ],
    ids=["every fifth step", "every step", "the same step"],
)
def test_killed_again_and_again_it_goes_on_to_the_same_bytes(place, expected, tmp_path, steps):
    """The eighth step is that the second file has its name: a file or two a time, until none is left."""
    job = json.dumps(settings(place, tmp_path), default=str)
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, job, json.dumps(list(steps))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    *killed, last = map(int, found.stdout.split())
    assert killed == [-signal.SIGKILL] * len(killed)
    assert (len(killed) > 3, last) == (True, 0)
    assert contents(tmp_path) == expected
