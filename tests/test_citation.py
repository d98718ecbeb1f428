"""CITATION.cff can be read, and names the version and the date that the package and the changelog name."""

import re
from pathlib import Path

import pytest
import yaml

import nonlocalnn

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_it_has_what_the_format_demands(citation):
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["title"] == "nonlocalnn"
    assert citation["license"] == "Apache-2.0"
    assert citation["authors"] == [{"name": "The nonlocalnn authors"}]


def test_the_version_is_that_of_the_package(citation):
    assert citation["version"] == nonlocalnn.__version__


def test_the_newest_release_of_the_changelog_is_this_one(citation):
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d\S*) \((\S+)\)$", changelog, re.M)
    assert newest
    assert newest.groups() == (citation["version"], str(citation["date-released"]))


def test_the_paper_is_cited(citation):
    (paper,) = citation["references"]
    assert paper["type"] == "conference-paper"
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Girshick", "Gupta", "He"]
    assert (paper["title"], paper["year"]) == ("Non-local Neural Networks", 2018)
