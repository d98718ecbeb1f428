"""First light: train the digit network, evaluate it, and see what its positions attend to.

Run by ``make demo``. A second run finds the first one finished and only shows its results again.
"""

import shlex
import sys
from pathlib import Path

from nonlocalnn.cli import main

OUTPUT = Path("runs/demo")


def step(command: str) -> None:
    """Print a command as one would type it, run it, and stop the demonstration if it fails."""
    print(f"\n$ nonlocalnn {command}", flush=True)
    status = main(shlex.split(command))
    if status:
        sys.exit(status)


if __name__ == "__main__":
    resume = " --resume" if (OUTPUT / "last").exists() else ""
    step(f"train --config digits --output {OUTPUT}{resume}")
    step(f"evaluate --model {OUTPUT} --output {OUTPUT}/evaluation")
    step(f"maps --model {OUTPUT} --data digits --samples 17 120 303 --output {OUTPUT}/maps")
    print(
        f"\nmetrics: {OUTPUT}/evaluation/metrics.json and confusion.png; pictures: {OUTPUT}/maps/*/nl_1.png"
    )
