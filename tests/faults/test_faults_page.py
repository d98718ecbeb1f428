import json
from pathlib import Path

from run_faults import markdown

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def test_the_page_says_what_the_json_says():
    found = json.loads((RESULTS / "faults.json").read_text())
    # The page says its answer between its title and what the command wrote.
    _, _, written = markdown(found).rstrip().partition("\n\n")
    assert written in (RESULTS / "faults.md").read_text()
    assert not [note for row in found["cases"] for note in row["notes"] if note.startswith("differs")]
