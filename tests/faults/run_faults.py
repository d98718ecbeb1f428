"""Hurt training runs in every way the tests know, more often, and write down what came of it.

``python tests/faults/run_faults.py --kills 100 --seed 0 [--output faults.json]``; a page goes beside it.
"""

import argparse
import itertools
import json
import os
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fault_cases
import fault_data_cases
from fault_data import DIGITS
from fault_ending import nothing_left
from fault_kills import interrupt_until_finished
from fault_rank_cases import RANK_FAULTS, two_ranks
from fault_rows import Row
from fault_runs import Bench

import findings

_WORDS = (*DIGITS, "--epochs", "3")
# Every so many runs one is of the command itself, start-up included; the others are forked.
_FRESH_EVERY = 3


def killed_at_random(bench, *, kills, seed):
    """Kill runs until there were so many kills; return a row for each way of starting."""
    rows = {
        fresh: Row(f"SIGKILL at random moments, {'the command' if fresh else 'forked'}")
        for fresh in (False, True)
    }
    for number in itertools.count():
        if sum(row.injected.total() for row in rows.values()) >= kills:
            break
        draw = random.Random(f"{seed} kill {number}")
        settings = {
            "checkpoint_every": 1 + number % 3,
            "num_workers": 2 * (number % 2),
            "accumulate": 1 + number // 2 % 2,
        }
        words = (*_WORDS, "--accumulate", str(settings["accumulate"]))
        free = [
            f"--checkpoint-every={settings['checkpoint_every']}",
            f"--num-workers={settings['num_workers']}",
        ]
        fresh = number % _FRESH_EVERY == 0
        found = interrupt_until_finished(bench, words, draw, free=free, fresh=fresh)
        _count(rows[fresh], found, settings)
    for row in rows.values():
        row.notes += _leftovers(row)
    return list(rows.values())


def killed_in_shards(bench, *, kills, seed):
    """Kill runs with sharded states, which are written in the background, until there were so many kills."""
    row = Row("SIGKILL at random moments, sharded states, forked")
    for number in itertools.count():
        if row.injected.total() >= kills:
            break
        draw = random.Random(f"{seed} shards {number}")
        free = ("--checkpoint-every", str(1 + number % 2))
        found = interrupt_until_finished(bench, (*_WORDS, "--parallel", "fsdp"), draw, free=free)
        _count(row, found, {"checkpoint_every": free[1]})
    row.notes += _leftovers(row)
    return [row]


def stopped_at_random(bench, *, runs, seed):
    """Send SIGTERM and SIGINT at random moments, half of them twice."""
    row = Row("SIGTERM and SIGINT at random moments, half of them twice")
    for number in range(runs):
        draw = random.Random(f"{seed} stop {number}")
        workers = 2 * (number % 2)
        found = interrupt_until_finished(
            bench,
            (*_WORDS, "--accumulate", "1"),
            draw,
            numbers=(signal.SIGTERM, signal.SIGINT),
            free=("--checkpoint-every", "2", "--num-workers", str(workers)),
            fresh=number % _FRESH_EVERY == 0,
        )
        _count(row, found, {"num_workers": workers})
    row.notes += _leftovers(row)
    return [row]


def _count(row, found, settings):
    row.injected += found.phases
    row.outcomes += found.endings
    row.of += 1
    row.equal += not found.differences
    row.notes += [f"differs with {settings}: {place}" for place in found.differences[:3]]
    row.notes += [f"a process was left with {settings}" for _ in found.orphans]
    if list(found.steps) != sorted(found.steps):
        row.notes.append(f"steps were lost with {settings}: {found.steps}")
    row.left.update(found.temporaries.values())


def _leftovers(row):
    files, total = row.left.total(), sum(size * number for size, number in row.left.items())
    return [f"{files} temporary files of {total:,} bytes were left in {row.of} folders"]


def _cases(bench, kills, seed):
    """Yield the functions that return rows, in order."""
    yield lambda: killed_at_random(bench, kills=kills, seed=seed)
    yield lambda: killed_in_shards(bench, kills=kills // 4, seed=seed)
    yield lambda: stopped_at_random(bench, runs=12, seed=seed)
    yield lambda: [fault_data_cases.stopped_while_validating(bench, num_workers=(0, 2))]
    yield lambda: [fault_cases.die_in_saves(bench, fault_cases.all_save_moments(), [fault_cases.LAST_STATE])]
    yield lambda: [fault_cases.file_too_large(bench)[0]]
    yield lambda: [fault_cases.no_space(bench)[0]]
    yield lambda: [fault_data_cases.lost_images(bench, num_workers=(0, 2))[0]]
    yield lambda: [fault_data_cases.lost_videos(bench, num_workers=(0, 2))[0]]
    yield lambda: [fault_cases.damaged_states(bench)[0]]
    yield lambda: [two_ranks(bench, RANK_FAULTS, torchrun=True)[0]]
    yield lambda: [two_ranks(bench, RANK_FAULTS, torchrun=True, parallel="fsdp")[0]]
    yield lambda: [fault_data_cases.not_finite(bench, num_workers=(0, 2))[0]]
    yield lambda: [fault_data_cases.cut_videos(bench)[0]]
    yield lambda: [fault_cases.clock_set_back(bench)]
    yield lambda: [fault_cases.read_only_output(bench)[0]]
    yield lambda: [fault_cases.vanishing_output(bench)[0]]


def markdown(found):
    """Return the page for what :func:`main` wrote."""
    facts = found["about"]
    kills = sum(sum(row["injected"].values()) for row in found["cases"] if row["case"].startswith("SIGKILL"))
    lines = [
        "# Training runs and faults",
        "",
        f"{findings.conditions(facts)}, one thread a process.",
        "",
        f"`python tests/faults/run_faults.py --kills {facts['kills']} --seed {facts['seed']}` hurts runs of",
        f"`nonlocalnn train` on the CPU; {kills} of the faults are kills at random moments. After each fault",
        "the run goes on. **Equal** counts the runs whose weights, optimiser state, log and test result are",
        "in the end those of a run that nothing hurt, bit for bit. *Forked* runs are copies of a process",
        "that has imported the command's modules, so that kills need not wait for that; all cases but the",
        "random ones and torchrun's are forked.",
        "",
        "| case | injected | equal | what came of it | notes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found["cases"]:
        cells = [row["case"], _listed(row["injected"]), f"{row['equal']} of {row['of']}"]
        cells += [_listed(row["outcomes"]), "; ".join(row["notes"]).replace("|", "\\|")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _listed(counts):
    if len(counts) > 12:
        return f"{sum(counts.values())} at {len(counts)} moments"
    return ", ".join(
        f"{name}: {number}" for name, number in sorted(counts.items(), key=lambda each: -each[1])
    )


def main():
    """Run all cases, and write what is known after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills at random moments (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--output", type=Path, help="JSON file; a .md is written beside it")
    given = parser.parse_args()
    found = {"about": findings.facts(seed=given.seed, kills=given.kills), "cases": []}
    with tempfile.TemporaryDirectory() as folder, nothing_left():
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        # What killed processes leave in the system's folder for temporary files is theirs alone here.
        os.environ["TMPDIR"] = str(temporary)
        bench = Bench(folder)
        for case in _cases(bench, given.kills, given.seed):
            try:
                rows = case()
            except PermissionError as error:
                rows = [Row("left out", notes=[str(error)])]
            for row in rows:
                found["cases"].append({name: value for name, value in vars(row).items() if name != "left"})
                print(json.dumps(found["cases"][-1]), flush=True)
            found["about"]["left in the folder for temporary files"] = dict(
                Counter(re.split("[-_]", path.name)[0] for path in temporary.iterdir())
            )
            findings.write(found, markdown(found), given.output)
    print(markdown(found))


if __name__ == "__main__":
    main()
