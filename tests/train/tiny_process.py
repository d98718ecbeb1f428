"""Run tiny trainings in a process of their own: one line of JSON each on stdin, one of result on stdout.

A line holds the recipe, the task's arguments, whether to resume, the variables that torchrun would set, and
the own seconds that the process is to claim for each step, if any.
"""

import json
import os
import sys
import warnings

import torch
from tiny_task import TinyTask

from nonlocalnn.train import NonFiniteLossError, Recipe, learner, train


def claim(seconds):
    """Make each step of this rank look as if it had taken so long."""

    class Claim(Stopwatch):
        def seconds(self):
            return super().seconds() if seconds is None else seconds

    learner.Stopwatch = Claim


def run(job):
    os.environ.update(job["environment"])
    claim(job["seconds"])
    try:
        result = train(Recipe.from_dict(job["recipe"]), task=TinyTask(**job["task"]), resume=job["resume"])
    except NonFiniteLossError as error:
        return {"error": str(error), "sample_ids": error.sample_ids}
    except ValueError as error:
        return {"error": str(error)}
    return {"signal": result.signal_number, "steps": result.steps}


def main():
    torch.set_num_threads(1)
    for line in sys.stdin:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            # Advice about the machine, as in pyproject.toml.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            answer = run(json.loads(line))
        # Only where there are any: an answer without is compared as a whole.
        if caught:
            answer["warnings"] = [str(each.message) for each in caught]
        print(json.dumps(answer), flush=True)


Stopwatch = learner.Stopwatch
if __name__ == "__main__":
    main()
