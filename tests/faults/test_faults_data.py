import fault_data_cases
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("lose", "action", "said"),
    [
        (fault_data_cases.lost_images, "cut", "cannot read image"),
        (fault_data_cases.lost_images, "forbid", "Permission denied"),
        (fault_data_cases.lost_videos, "cut", "and --max-broken is 0: mend them"),
        (fault_data_cases.lost_videos, "remove", "no such video"),
    ],
    ids=["image-cut", "image-forbidden", "video-cut", "video-removed"],
)
def test_lost_data_stops_the_run_which_goes_on_when_they_are_back(bench, lose, action, said):
    row, stops = lose(bench, actions=(action,))
    assert all(each.is_clear_stop for each in stops.values()), row.notes
    assert said in stops[f"{action} file, 0 workers"].error
    assert (row.equal, row.of) == (2, 2), row.notes


@pytest.fixture(scope="module")
def lost_with_readers(bench):
    return fault_data_cases.lost_images(bench, actions=(), num_workers=(2,))


def test_lost_data_end_a_run_with_readers(lost_with_readers):
    row, _ = lost_with_readers
    assert "did not end" not in row.outcomes


def test_a_run_with_readers_says_in_one_line_what_is_lost(lost_with_readers):
    _, stops = lost_with_readers
    (stop,) = stops.values()
    assert "no such image" in stop.error
    assert "Traceback" not in stop.error


def test_lost_data_leave_a_run_with_readers_as_it_was(lost_with_readers):
    row, _ = lost_with_readers
    assert (row.equal, row.of) == (1, 1), row.notes


@pytest.mark.parametrize(
    "num_workers",
    [
        0,
        2,
    ],
)
def test_a_scheduler_may_stop_a_run_during_validation(bench, num_workers):
    row = fault_data_cases.stopped_while_validating(bench, num_workers=(num_workers,))
    assert (row.equal, row.of) == (1, 1), row.notes
    assert row.outcomes == {"stopped by the signal, all saved": 1}


def test_a_sample_that_is_not_finite_is_named_and_the_run_goes_on_without_it(bench):
    row, stops, sample = fault_data_cases.not_finite(bench)
    (stop,) = stops.values()
    assert stop.is_clear_stop
    assert "loss is not finite" in stop.error
    assert sample in stop.error
    assert (row.equal, row.of) == (1, 1), row.notes


def test_a_cut_video_stops_the_run_unless_it_may_be_left_out(bench):
    row, stop = fault_data_cases.cut_videos(bench)
    assert stop.is_clear_stop
    assert "dark/3.mp4" in stop.error
    assert row.outcomes == {"stopped with one line": 1, "SIGKILL": 2, "finished": 1}
    assert (row.equal, row.of) == (2, 2), row.notes
