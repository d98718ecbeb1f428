"""Fuzz the library: ``python tests/fuzz/run_fuzz.py --cases 10000 --seed 0`` prints a summary as JSON.

The cases are divided among the rooms, and each room runs in processes of its own, 1,000 cases at a time: what
crashes one, or takes too long or too much memory, is a finding and ends only these cases. The same seed gives
the same cases. The exit status is 1 where there is a finding.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
_AT_A_TIME = 1000
_MOST_FINDINGS = 20


def main():
    from fuzz_rooms import ROOMS, run_room

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", choices=tuple(ROOMS), default=tuple(ROOMS))
    parser.add_argument("--here", action="store_true", help="in this process, with its limits")
    parser.add_argument("--folder", type=Path, help="where --here writes the files of its cases")
    parser.add_argument("--seconds", type=float, default=1800, help="that 1,000 cases may take")
    args = parser.parse_args()
    total = sum(ROOMS[name].share for name in args.rooms)
    shares = {name: max(1, args.cases * ROOMS[name].share // total) for name in args.rooms}
    if args.here:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name if args.folder is None else args.folder)
            done = {
                room: run_room(room, cases=share, number=args.seed, folder=folder)
                for room, share in shares.items()
            }
        print(json.dumps(done))
        return 0
    summary = {"cases": 0, "seed": args.seed, "rooms": {}, "findings": []}
    for name, share in shares.items():
        outcomes, slowest = collections.Counter(), 0.0
        for start in range(0, share, _AT_A_TIME):
            count = min(_AT_A_TIME, share - start)
            done = _in_a_process(name, count, args.seed * 10_000 + start // _AT_A_TIME, args.seconds)
            outcomes.update(done["outcomes"])
            slowest = max(slowest, done["slowest_seconds"])
            summary["findings"] += [{"room": name, **each} for each in done["findings"]]
        summary["rooms"][name] = {**outcomes, "slowest_seconds": slowest}
        summary["cases"] += sum(outcomes.values())
    number = len(summary["findings"])
    summary["findings"] = summary["findings"][:_MOST_FINDINGS]
    print(json.dumps(summary, indent=2, ensure_ascii=True))
    return 1 if number else 0


def _in_a_process(name, cases, number, seconds):
    words = [
        sys.executable,
        __file__,
        "--here",
        "--rooms",
        name,
        "--cases",
        str(cases),
        "--seed",
        str(number),
    ]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                [*words, "--folder", folder], capture_output=True, text=True, timeout=seconds, env=environment
            )
            if done.returncode == 0:
                return json.loads(done.stdout.splitlines()[-1])[name]
            error = f"the process ended with status {done.returncode}: {done.stderr[-500:]}"
        except subprocess.TimeoutExpired:
            error = f"{cases} cases took longer than {seconds:g} seconds"
        last = Path(folder, "case.txt")
        case = last.read_text(encoding="utf-8")[:1000] if last.exists() else "before the first"
    finding = {
        "case": case,
        "error": error,
        "place": f"--here --rooms {name} --cases {cases} --seed {number}",
    }
    return {"outcomes": {"finding": 1}, "findings": [finding], "slowest_seconds": seconds}


if __name__ == "__main__":
    sys.path[:0] = [str(_HERE), str(_HERE.parent)]
    sys.exit(main())
