"""Run the tests, and write down which branches of each room they take: needs the extra "mutants".

``python tests/run_coverage.py [--output coverage.json] [words for pytest]``; a page goes beside it.
Processes that tests start are watched as well, but for those that a signal ends.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import findings

_ROOT = Path(__file__).resolve().parents[1]
_SETTINGS = """
[run]
branch = True
parallel = True
source_pkgs = nonlocalnn
data_file = {folder}/data
patch = subprocess
# Rooms that the tests at hand never import, and threads of a forked process, are no news.
disable_warnings = no-data-collected, module-not-imported, module-not-measured
[report]
exclude_also =
    if TYPE_CHECKING:
    assert_never
"""
_COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def measure(words, folder):
    """Run pytest with some words; return its exit status and what coverage counts for each file."""
    settings = Path(folder, "coverage.ini")
    settings.write_text(_SETTINGS.format(folder=folder))
    tool = [sys.executable, "-m", "coverage"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    status = subprocess.run(
        [*tool, "run", f"--rcfile={settings}", "-m", "pytest", *words], cwd=_ROOT, env=environment
    ).returncode
    subprocess.run([*tool, "combine", "-q", f"--rcfile={settings}"], cwd=_ROOT, check=True)
    report = Path(folder, "report.json")
    subprocess.run([*tool, "json", "-q", f"--rcfile={settings}", "-o", report], cwd=_ROOT, check=True)
    files = json.loads(report.read_text())["files"]
    return status, {name: each["summary"] for name, each in files.items()}


def by_room(files):
    """Return the counts of each room, and of each of its files, by their names."""
    rooms = {}
    for name, counts in sorted(files.items()):
        within = name.partition("nonlocalnn/")[2]
        room = within.partition("/")[0].removesuffix(".py")
        kept = {count: counts[count] for count in _COUNTS}
        rooms.setdefault(room, {})[within] = kept
    return [
        {
            "room": room,
            **{count: sum(each[count] for each in held.values()) for count in _COUNTS},
            "files": held,
        }
        for room, held in rooms.items()
    ]


def markdown(found):
    """Return the page for what :func:`main` wrote."""
    total = {count: sum(room[count] for room in found["rooms"]) for count in _COUNTS}
    lines = [
        "# Branch coverage",
        "",
        f"**The tests run {_share(total, 'lines')} of the statements and take"
        f" {_share(total, 'branches')} of the branches.**",
        "",
        f"{findings.conditions(found['about'])}.",
        "",
        "`make coverage` runs the tests that are not marked slow and counts the statements that ran and the"
        " branches that were taken,"
        " in the processes that tests start as well, but not in those that a signal ended.",
        "",
        "| room | statements | run | branches | taken | files below 90 % of branches |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for room in found["rooms"]:
        low = [
            f"{Path(name).name} {_share(each, 'branches')}"
            for name, each in room["files"].items()
            if len(room["files"]) > 1 and each["covered_branches"] < 0.9 * each["num_branches"]
        ]
        lines.append(f"{_line(room['room'], room)} {', '.join(low)} |")
    lines.append(f"{_line('all', total)} |")
    return "\n".join(lines) + "\n"


def _line(name, counts):
    cells = [name, counts["num_statements"], _share(counts, "lines"), counts["num_branches"]]
    return f"| {' | '.join(map(str, cells))} | {_share(counts, 'branches')} |"


def _share(counts, kind):
    held = counts["num_statements" if kind == "lines" else "num_branches"]
    return f"{counts[f'covered_{kind}'] / held:.1%}" if held else "-"


def main():
    """Measure, write, and end as the tests did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file; a .md is written beside it")
    given, words = parser.parse_known_args()
    about = findings.facts()
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        status, files = measure(words, folder)
    found = {"about": about, "rooms": by_room(files)}
    page = markdown(found)
    findings.write(found, page, given.output)
    print(page)
    return status


if __name__ == "__main__":
    sys.exit(main())
