"""What a run leaves behind, what must be equal bit for bit, and how it ended."""

import itertools
import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from fault_process import Process
from safetensors import safe_open

from nonlocalnn.train.state.resuming import read_tensors

# Far more than any run here takes: a process that waits for ever must not.
PATIENCE = 240
_COMMON = ("--device", "cpu", "--schedule", "cosine", "--seed", "3")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status, negative for a signal, None where it did not; and what it said."""

    status: int | None
    said: str

    @property
    def is_clear_stop(self):
        """Whether it stopped with one line of error, and nothing else but an epoch's lines and warnings."""
        errors = [line for line in self.said.splitlines() if line.startswith("nonlocalnn train: ")]
        return self.status == 1 and len(errors) == 1 and "Traceback" not in self.said

    @property
    def error(self):
        """The line of error; "" where there is none."""
        errors = [line for line in self.said.splitlines() if line.startswith("nonlocalnn train: ")]
        return errors[-1].removeprefix("nonlocalnn train: ") if errors else ""


class Bench:
    """Starts runs below a folder, and holds the uninterrupted ones to compare with.

    Args:
        folder: Where to.
        fresh: See :class:`fault_process.Process`.
    """

    def __init__(self, folder, *, fresh=False):
        self.folder = Path(folder)
        self.fresh = fresh
        self._numbers = itertools.count()
        self._references = {}

    def place(self):
        """Return a path where nothing is."""
        return self.folder / f"run-{next(self._numbers)}"

    def start(self, words, output, *, fresh=None, **settings):
        """Start a run that begins or goes on in ``output``."""
        return Process(
            [*words, *_COMMON, "--resume-if-any", "--output", str(output)],
            log=self.folder / f"log-{next(self._numbers)}",
            fresh=self.fresh if fresh is None else fresh,
            **settings,
        )

    def run(self, words, output, **settings):
        """Start a run and wait for its end."""
        return end_of(self.start(words, output, **settings))

    def reference(self, words, **settings):
        """Return the results of a run that nothing hurt; each is trained once."""
        if words not in self._references:
            output = self.place()
            ended = self.run(words, output, **settings)
            assert ended.status == 0, ended.said
            self._references[words] = results(output)
        return self._references[words]


def end_of(process):
    """Wait for a process, and return how it ended; one that does not is killed, with its readers."""
    status = process.wait(PATIENCE)
    if status is None:
        process.signal_session(signal.SIGKILL)
        process.wait(PATIENCE)
    return Ended(status, process.log.read_text(errors="replace"))


def results(output):
    """Return everything that a run must reproduce bit for bit: no times, no paths."""
    state = saved_state(output)
    metrics = json.loads((output / "metrics.json").read_text())
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    found = {
        "state": state["learner"],
        "position": {name: state["position"][name] for name in ("epoch", "step", "sums")},
        "rows": [_without_times(row) for row in state["position"]["rows"]],
        "log.jsonl": [_without_times(row) for row in log],
        "metrics.json": {name: value for name, value in metrics.items() if name != "seconds"},
    }
    for name in ("last.safetensors", "best.safetensors"):
        with safe_open(output / name, framework="pt") as file:
            found[name] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            facts = json.loads(file.metadata()["metadata"])
        found[f"facts of {name}"] = {key: value for key, value in facts.items() if key != "recipe"}
    return found


def _without_times(row):
    names = ("epoch", "step", "lr")
    return {key: row[key] for key in row if key in names or key.startswith(("train_", "validation_"))}


def differences(first, second, place=""):
    """Return where two results differ in any bit."""
    if isinstance(first, torch.Tensor):
        same = isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [place]
    if type(first) is not type(second):
        return [place]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [place]
        return [each for key in first for each in differences(first[key], second[key], f"{place}/{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [place]
        pairs = enumerate(zip(first, second, strict=True))
        return [each for number, pair in pairs for each in differences(*pair, f"{place}/{number}")]
    return [] if first == second else [place]


def saved_state(output, name="last"):
    """Return the state of a run, or the one before with "last.previous"; None where there is none.

    "learner" holds the tensors by name, put together.
    """
    state = output / name
    if not (state / "manifest.json").exists():
        return None
    manifest = json.loads((state / "manifest.json").read_text())
    tensors = read_tensors(state, lambda name, shape, dtype: torch.empty(shape, dtype=dtype))
    return {**manifest, "learner": tensors}


def temporaries(output):
    """Return the temporary files and folders in a run's folder: names and sizes in bytes."""
    if not output.is_dir():
        return {}
    kept = r"recipe\.json|metrics\.json|log\.(jsonl|csv)|last(\.previous)?|(best|last)\.safetensors"
    return {path.name: _size(path) for path in output.iterdir() if not re.fullmatch(kept, path.name)}


def _size(path):
    return sum(map(_size, path.iterdir())) if path.is_dir() else path.stat().st_size


def steps_done(output):
    """Return the steps of the newest saved state that is whole; 0 where there is none."""
    for name in ("last", "last.previous"):
        state = saved_state(output, name)
        if state is not None:
            position = state["position"]
            return (position["rows"][-1]["step"] if position["rows"] else 0) + position["step"]
    return 0
