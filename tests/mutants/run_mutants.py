"""Break a sample of the library on purpose, and see whether the tests notice: needs the extra "mutants".

``python tests/mutants/run_mutants.py --seed 0 [--rooms data train] [--output mutants.json]``; a page goes
beside it. With ``--rooms`` the other rooms of the file stay, each with the commit that it is of. The exit
status is 1 where fewer than 95 of 100 mutants are noticed, those left out that ``equivalent.toml`` names.
"""

import argparse
import functools
import json
import sys
import tempfile
import tomllib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from mutant_runs import Scratch, change_of
from mutant_sample import ELSEWHERE, ROOMS, mutants, sample

import findings

_EQUIVALENT = Path(__file__).with_name("equivalent.toml")
# Tests that run a function are tried by their length until so many seconds of them have gone by.
_SECONDS_OF_TESTS = 30
_PROMISED = 0.95


def try_room(scratch, room, *, lines, seed, equivalent):
    """Try the mutants of a room; return what :func:`markdown` shows of it."""
    functions = sample(scratch.package, room, lines=lines, seed=seed)
    places = [*ROOMS[room], *sorted({f"src/nonlocalnn/{each.file}" for each in functions})]
    made = [(each, list(mutants(scratch.package, each, seed=seed))) for each in functions]
    rows = scratch.with_tests(places, lambda tests: _try(scratch, tests, made))
    for row in rows["mutants"]:
        reason = equivalent.get(tuple(row[name] for name in ("file", "name", "before", "after")))
        if row["noticed by"] is None and reason is not None:
            row["equivalent"] = reason
    return {"room": room, **rows}


def _try(scratch, tests, made):
    """Return rows of functions and of mutants; this runs where the tests were collected."""
    _, all_tests = tests.run(
        tests.names, seconds=3600, measured={function.file for function, _ in made}, stop=False
    )

    @functools.cache
    def passes_alone(name):
        return tests.run([name], seconds=600)[1].get(name, {}).get("outcome") == "passed"

    rows = {"functions": [], "mutants": []}
    for function, each in made:
        running = _tests_of(function, all_tests)
        held = {"file": function.file, "name": function.name, "lines": function.num_lines}
        rows["functions"].append({**held, "tests": len(running)})
        for mutant in each:
            order = _order(mutant, running, all_tests)
            seconds = 30 + 3 * sum(all_tests[name]["seconds"] for name in order)
            noticed = _notice(scratch, tests, mutant, order, seconds)
            while noticed in order and not passes_alone(noticed):
                # It needs the tests before it, and tells nothing of the mutant.
                order.remove(noticed)
                noticed = _notice(scratch, tests, mutant, order, seconds)
            row = {"file": function.file, "name": function.name, "operator": mutant.operator}
            row |= {"before": mutant.before, "after": mutant.after, "noticed by": noticed}
            rows["mutants"].append(row)
            print(json.dumps({"line": mutant.line, **row}), flush=True)
    return rows


def _tests_of(function, tests):
    """Return the tests that run a function."""
    other = ELSEWHERE.get(function.file, "-")
    running = []
    for name, each in tests.items():
        lines = each["lines"].get(function.file, ())
        runs = any(function.body <= line <= function.last for line in lines) or name.startswith(f"{other}::")
        if runs and each["outcome"] == "passed":
            running.append(name)
    return running


def _order(mutant, names, tests):
    """Return the tests to try: those that run the very line first, of both kinds the short ones first."""

    def rank(name):
        return mutant.line not in tests[name]["lines"].get(mutant.function.file, ()), tests[name]["seconds"]

    order, total = [], 0.0
    for name in sorted(names, key=rank):
        if total <= _SECONDS_OF_TESTS:
            order.append(name)
            total += tests[name]["seconds"]
    return order


def _notice(scratch, tests, mutant, names, seconds):
    """Return what noticed a mutant: a test, "import" or "time"; None where nothing did."""
    if not names:
        return None
    change = change_of(mutant)
    path = scratch.package / mutant.function.file
    original = path.read_text()
    path.write_text(mutant.source)
    try:
        if change is None:
            in_time, noticed = tests.run_anew(names, seconds=60 + seconds)
        else:
            in_time, told = tests.run(names, seconds=seconds, change=change)
            failed = [name for name, each in told.items() if each["outcome"] == "failed"]
            noticed = failed[0] if failed else None if len(told) == len(names) else "the end of the process"
    finally:
        path.write_text(original)
    return noticed if in_time else "time"


def _fate(row):
    if row["noticed by"] is not None:
        return "noticed"
    return "equivalent" if "equivalent" in row else "survived"


def share(rooms):
    """Return which share of the mutants was noticed, those left out that are equivalent."""
    fates = Counter(_fate(each) for room in rooms for each in room["mutants"])
    return fates["noticed"] / max(1, fates["noticed"] + fates["survived"])


def markdown(found):
    """Return the page for what :func:`main` wrote."""
    about = found["about"]
    lines = [
        "# Do the tests notice?",
        "",
        f"**The tests notice {share(found['rooms']):.1%} of the faults that are put in.**",
        "",
        f"{findings.conditions(about)}.",
        "",
        "`make mutants` changes one thing at a time in functions drawn by the seed"
        f" {about['seed']}, and runs tests of the room that run the function until one fails: short ones"
        f" first, {_SECONDS_OF_TESTS} seconds of them, and none that is marked slow."
        " A *mutant* that no test notices survives; one that means the same as the original is *equivalent*"
        " and is not counted. The changes are [cosmic-ray](https://cosmic-ray.readthedocs.io)'s, the nearest"
        " replacement of each operator, and two of our own: a keyword argument or a statement is left out.",
        "",
        "| room | functions | lines | mutants | noticed | equivalent | survived | noticed of the rest |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_line(_name(room, about), [room]) for room in found["rooms"]]
    lines += [_line("all", found["rooms"]), "", "## Survivors", ""]
    rows = [(room["room"], each) for room in found["rooms"] for each in room["mutants"]]
    lines += [_change(each) for _, each in rows if _fate(each) == "survived"] or ["None."]
    lines += ["", "## Equivalent", ""]
    lines += [f"{_change(each)}: {each['equivalent']}" for _, each in rows if _fate(each) == "equivalent"]
    lines += ["", "## Functions", ""]
    for room in found["rooms"]:
        names = ", ".join(f"`{each['file']}` {each['name']}" for each in room["functions"])
        lines.append(f"- {room['room']}: {names}")
    return "\n".join(lines) + "\n"


def _name(room, about):
    other = room.get("commit", about["commit"])
    return room["room"] if other == about["commit"] else f"{room['room']} (at {other})"


def _line(name, rooms):
    fates = Counter(_fate(each) for room in rooms for each in room["mutants"])
    functions = [each for room in rooms for each in room["functions"]]
    cells = [name, len(functions), sum(each["lines"] for each in functions), sum(fates.values())]
    cells += [fates[fate] for fate in ("noticed", "equivalent", "survived")]
    return f"| {' | '.join(map(str, cells))} | {share(rooms):.1%} |"


def _change(row):
    after = f"`{row['after']}`" if row["after"] else "nothing"
    return f"- {row['file']}, {row['name']}: `{row['before']}` becomes {after}"


def main():
    """Try the rooms one after another, and write what is known after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the functions (default: 0)")
    parser.add_argument("--lines", type=int, default=48, help="of code in each room, at least (default: 48)")
    parser.add_argument("--rooms", nargs="+", choices=tuple(ROOMS), help="these alone (default: all)")
    parser.add_argument("--output", type=Path, help="JSON file; a .md is written beside it")
    given = parser.parse_args()
    named = tomllib.loads(_EQUIVALENT.read_text())["mutant"]
    equivalent = {
        (each["file"], each["name"], each["before"], each["after"]): each["reason"] for each in named
    }
    # In another process: those that run tests must not have imported the library before its copy.
    with ProcessPoolExecutor(1) as other:
        about = other.submit(findings.facts, seed=given.seed).result()
    found = {"about": about, "rooms": []}
    if given.rooms and given.output is not None and given.output.exists():
        found["rooms"] = json.loads(given.output.read_text())["rooms"]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        scratch = Scratch(folder)
        for room in given.rooms or ROOMS:
            tried = try_room(scratch, room, lines=given.lines, seed=given.seed, equivalent=equivalent)
            tried["commit"] = about["commit"]
            others = [each for each in found["rooms"] if each["room"] != room]
            found["rooms"] = sorted([*others, tried], key=lambda each: list(ROOMS).index(each["room"]))
            print(_line(room, [tried]), flush=True)
            findings.write(found, markdown(found), given.output)
    print(markdown(found))
    return 0 if share(found["rooms"]) >= _PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
