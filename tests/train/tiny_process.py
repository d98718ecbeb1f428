"""Run tiny trainings in a process of their own: one line of JSON each on stdin, one of result on stdout.

A line holds the recipe, the task's arguments, whether to resume, and the port at which the ranks meet.
"""

import json
import os
import sys

import torch
from tiny_task import TinyTask

from nonlocalnn.train import NonFiniteLossError, Recipe, train


def main():
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job["port"])})
        try:
            result = train(
                Recipe.from_dict(job["recipe"]), task=TinyTask(**job["task"]), resume=job["resume"]
            )
        except NonFiniteLossError as error:
            print(json.dumps({"error": str(error), "sample_ids": error.sample_ids}), flush=True)
        else:
            print(json.dumps({"signal": result.signal_number, "steps": result.steps}), flush=True)


if __name__ == "__main__":
    main()
