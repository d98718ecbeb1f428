"""Runs that are killed or interrupted at random moments, again and again, until they are finished."""

import json
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from fault_process import orphans
from fault_runs import differences, end_of, results, saved_state, steps_done, temporaries

# A reader looks every 5 seconds whether its parent lives; a busy machine takes longer.
_READERS_LEAVE = 60


@dataclass
class Interruptions:
    """What became of one run.

    Args:
        phases: How many signals fell into which phase.
        endings: How many processes ended in which way.
        steps: What was saved after each signal.
        temporaries: Temporary files left in the run's folder at the end, and their bytes.
        orphans: Processes left at the end.
        differences: Where the result differs from the uninterrupted run's.
    """

    phases: Counter = field(default_factory=Counter)
    endings: Counter = field(default_factory=Counter)
    steps: list = field(default_factory=list)
    temporaries: dict = field(default_factory=dict)
    orphans: list = field(default_factory=list)
    differences: list = field(default_factory=list)


def interrupt_until_finished(
    bench, words, draw, *, numbers=(signal.SIGKILL,), free=(), fresh=False, most=None
):
    """Send signals at random moments until the run is finished; return the :class:`Interruptions`.

    One moment in five is of the start-up; the others are of the rest of a whole run. SIGINT goes to all
    processes of the session, as from a terminal; half of the signals that can be ignored are followed by
    another of the kind.

    Args:
        bench: Where to run.
        words: The recipe.
        draw: A :class:`random.Random`.
        numbers: The signals to choose from.
        free: What the uninterrupted run is made without, as it must change nothing.
        fresh: See :class:`fault_process.Process`.
        most: After so many signals the run is left alone; None is never.
    """
    expected = bench.reference(words)
    start_up, longest = _times(bench, (*words, *free), fresh)
    found, leaders, output = Interruptions(), [], bench.place()
    while True:
        before = _look(output)
        process = bench.start((*words, *free), output, fresh=fresh)
        leaders.append(process.pid)
        is_spared = found.phases.total() == most
        if not is_spared and process.wait(_moment(draw, start_up, longest)) is None:
            number = draw.choice(numbers)
            _interrupt(process, number, twice=number != signal.SIGKILL and draw.random() < 0.5)
        ended = end_of(process)
        found.endings[_ending(ended)] += 1
        if ended.status == 0:
            break
        found.phases[phase(output, before)] += 1
        found.steps.append(steps_done(output))
    found.orphans = orphans(leaders, seconds=_READERS_LEAVE)
    found.temporaries = temporaries(output)
    found.differences = differences(expected, results(output))
    return found


def _times(bench, words, fresh):
    """Return how long a run takes to write its first file, and to its end, in seconds."""
    output, began = bench.place(), time.monotonic()
    process = bench.start(words, output, fresh=fresh)
    while process.wait(0.02) is None and not (output / "recipe.json").exists():
        pass
    start_up = time.monotonic() - began
    whole = end_of(process)
    assert whole.status == 0, whole.said
    return start_up, time.monotonic() - began


def _moment(draw, start_up, longest):
    return draw.uniform(0, start_up) if draw.random() < 0.2 else draw.uniform(start_up, longest)


def _interrupt(process, number, *, twice):
    for _ in range(1 + twice):
        if number == signal.SIGINT:
            process.signal_session(number)
        else:
            process.send(number)
        if twice:
            process.wait(0.05)


def _ending(ended):
    if ended.status is None:
        return "did not end"
    if ended.status == 0:
        return "finished"
    if ended.status < 0:
        return signal.Signals(-ended.status).name
    said = "traceback" if "Traceback" in ended.said else "one line"
    return f"status {ended.status}, {said}"


def _look(output):
    recipe = output / "recipe.json"
    return temporaries(output), recipe.stat().st_mtime_ns if recipe.exists() else None


def phase(output, before):
    """Return in which phase a process died, as its files tell.

    Args:
        output: The run's folder.
        before: The temporary files in it and the time of its recipe, from before the process.
    """
    left, recipe_time = _look(output)
    new = sorted(left.keys() - before[0].keys())
    if new:
        names = [name[1:].rsplit(".", 2)[0] for name in new if name != "last.new"]
        return "in the writing of " + (names[0] if names else "the state")
    if recipe_time == before[1]:
        return "start-up"
    state, weights = output / "last/manifest.json", output / "last.safetensors"
    if not state.exists():
        return "before the first save"
    if not weights.exists() or weights.stat().st_mtime_ns < state.stat().st_mtime_ns:
        return "between the state and the files that follow"
    saved = saved_state(output)
    position, recipe = saved["position"], json.loads((output / "recipe.json").read_text())
    if position["epoch"] == recipe["epochs"]:
        return "test, or the end"
    steps_an_epoch = saved["num_samples"] // recipe["batch_size"]
    every = recipe["checkpoint_every"] or steps_an_epoch
    steps = position["epoch"] * steps_an_epoch + position["step"]
    is_last = (steps // every + 1) * every >= (position["epoch"] + 1) * steps_an_epoch
    return "last steps of an epoch, or validation" if is_last else "steps"
