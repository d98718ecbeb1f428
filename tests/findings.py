"""What run_coverage.py, run_faults.py and run_mutants.py found, as JSON and as a page beside it."""

import json
import sys
from pathlib import Path

# The scripts are started by their path, and benchmarks/ lies in the folder of the clone.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def facts(**settings):
    """Return when, with what and on which machine the figures were found, and the settings given."""
    # Only when asked: run_mutants.py asks in a process of its own.
    from benchmarks.about import about

    known = about(device="cpu", dtype="float32", quick=False)
    return {**{name: known[name] for name in ("date", "commit", "versions", "processor")}, **settings}


def conditions(about):
    """Return what :func:`facts` says as the beginning of a page's first line."""
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    return f"{about['date']}, commit {about['commit']}; {versions}; {about['processor']}"


def write(found, page, output):
    """Write the JSON file and, beside it, the page; nothing where no file is asked for."""
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n")
        output.with_suffix(".md").write_text(page)
