import re

import fault_cases
import pytest
from fault_cases import LAST_STATE, MOMENTS, STATE_MOMENTS

pytestmark = pytest.mark.slow


def test_killed_at_every_moment_of_writing_the_state(bench):
    row = fault_cases.die_in_saves(bench, [(moment, 1) for moment in STATE_MOMENTS])
    assert row.outcomes == {"SIGKILL": len(STATE_MOMENTS)}
    assert (row.equal, row.of) == (1, 1), row.notes


def test_killed_in_the_files_that_follow(bench):
    followers = [(f"half {name}", 2) for name in ("log.jsonl", "log.csv", "last.safetensors")]
    followers += [("half best.safetensors", 1), ("renamed best.safetensors", 1), ("half recipe.json", 1)]
    followers += [("begin last.safetensors", 1), *((f"{moment} metrics.json", 1) for moment in MOMENTS[1::3])]
    row = fault_cases.die_in_saves(bench, followers, [LAST_STATE])
    assert row.outcomes == {"SIGKILL": len(followers) + 1}
    assert (row.equal, row.of) == (2, 2), row.notes


@pytest.fixture(scope="module")
def too_large(bench):
    return fault_cases.file_too_large(bench)


def test_a_file_that_cannot_be_written_stops_the_run_which_then_goes_on(too_large):
    row, stops = too_large
    assert {each.status for each in stops.values()} == {1}
    assert (row.equal, row.of) == (len(stops), len(stops)), row.notes


@pytest.mark.parametrize(
    "name",
    [
        "last",
        "last.safetensors",
        "log.jsonl",
    ],
)
def test_says_in_one_line_that_a_file_cannot_be_written(too_large, name):
    stop = too_large[1][name]
    assert stop.is_clear_stop
    # PyTorch's writer does not say what the system said.
    assert ("is the disk full?" if name == "last" else "File too large") in stop.error


def test_a_full_disk_stops_the_run_which_then_goes_on(bench):
    try:
        row, stops = fault_cases.no_space(bench, names=("last",))
    except PermissionError as error:
        pytest.skip(str(error))
    assert {each.status for each in stops.values()} == {1}
    assert (row.equal, row.of) == (1, 1), row.notes


@pytest.mark.parametrize(
    "damage",
    [
        fault_cases.flip_a_bit,
        fault_cases.empty,
        fault_cases.write_an_incomplete_state,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_state_gives_way_to_the_one_before_and_two_stop_the_run(bench, damage):
    row, stops = fault_cases.damaged_states(bench, damages=(damage,))
    assert (row.equal, row.of) == (1, 1), row.notes
    assert stops[damage.__name__].is_clear_stop
    assert "last.previous" in stops[damage.__name__].error


def test_a_clock_set_back_changes_nothing(bench):
    row = fault_cases.clock_set_back(bench)
    assert row.outcomes == {"finished": 1}
    assert (row.equal, row.of) == (1, 1), row.notes


def test_a_read_only_output_stops_the_run_which_then_goes_on(bench):
    row, stop = fault_cases.read_only_output(bench)
    assert stop.is_clear_stop
    says = r"--output (\S+) cannot be made: \1 may not be written: choose another"
    assert re.fullmatch(says, stop.error)
    assert (row.equal, row.of) == (1, 1), row.notes


def test_an_output_that_vanishes_is_made_again_or_stops_the_run(bench):
    row, stops = fault_cases.vanishing_output(bench)
    assert (row.equal, row.of) == (1, 1), row.notes
    assert stops["a file in its parent's place"].is_clear_stop
    assert stops["a file in its parent's place"].error.endswith("/last.new cannot be used: not a directory")
