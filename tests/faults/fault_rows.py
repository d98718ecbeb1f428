"""What became of a case, and what its faults have in common: to stop a run that then goes on."""

import os
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

from fault_runs import differences, results

# Eight epochs of three steps, saved after each; with keep=last every epoch writes every file.
LONG = ("--epochs", "8", "--keep", "last", "--checkpoint-every", "1")


@dataclass
class Row:
    """What became of a case.

    Args:
        case: Its name.
        injected: Faults injected, by what they were.
        outcomes: What came of them.
        equal: How many runs were equal to the uninterrupted one in the end.
        of: How many runs.
        notes: What else was found.
        left: Temporary files that were left in folders of runs, by their bytes.
    """

    case: str
    injected: Counter = field(default_factory=Counter)
    outcomes: Counter = field(default_factory=Counter)
    equal: int = 0
    of: int = 0
    notes: list = field(default_factory=list)
    left: Counter = field(default_factory=Counter)

    def compare(self, expected, output):
        """Count a run, equal or not."""
        found = differences(expected, results(output))
        self.of += 1
        self.equal += not found
        self.notes += [f"differs: {place}" for place in found[:5]]

    def count(self, what, ended):
        """Count a fault and how the process ended that met it."""
        self.injected[what] += 1
        if ended.status is None:
            outcome = "did not end"
        elif ended.status < 0:
            outcome = signal.Signals(-ended.status).name
        elif ended.status == 0:
            outcome = "finished"
        elif ended.status > 128:
            outcome = "stopped by the signal, all saved"
        elif "ChildFailedError" in ended.said:
            outcome = "torchrun ended both, and names the rank"
        else:
            outcome = "stopped with one line" if ended.is_clear_stop else "stopped with a traceback"
        self.outcomes[outcome] += 1
        if outcome == "stopped with a traceback":
            self.notes.append(f"{what}: {ended.said.strip().splitlines()[-1][:200]}")


def stop_and_mend(bench, row, words, faults, *, mend=None, output=None):
    """Let each fault stop a run of its own, mend what it broke, and compare the run when it has gone on.

    Args:
        bench: Where to run.
        row: What counts.
        words: The recipe.
        faults: By name.
        mend: Called after each stop.
        output: Called for the folder of each run; None takes a new one.

    Returns:
        How the stopped processes ended, by name.
    """
    expected, stops = bench.reference(words), {}
    for name, fault in faults.items():
        place = bench.place() if output is None else output()
        stops[name] = bench.run(words, place, fault=fault)
        row.count(name, stops[name])
        if mend is not None:
            mend()
        ended = bench.run(words, place)
        assert ended.status == 0, f"{name}: {ended.said}"
        row.compare(expected, place)
    return stops


@contextmanager
def readable_by_all(bench):
    """Let another user than root reach the files."""
    folders = [bench.folder, *bench.folder.parents]
    modes = {path: path.stat().st_mode for path in folders if path.stat().st_uid == os.getuid()}
    for path, mode in modes.items():
        path.chmod(mode | 0o555)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
