import json
from pathlib import Path

from run_faults import markdown

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def test_the_page_says_what_the_json_says():
    found = json.loads((RESULTS / "faults.json").read_text())
    assert markdown(found).rstrip() in (RESULTS / "faults.md").read_text()
    assert not [note for row in found["cases"] for note in row["notes"] if note.startswith("differs")]
