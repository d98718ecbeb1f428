"""Who does which part: each its own share first, then what is left, with locks and without."""

import errno

import pytest
from bulk_runs import contents, settings

from nonlocalnn.bulk import predict_list

fcntl = pytest.importorskip("fcntl")


def test_one_of_many_does_everything_where_the_others_never_come(place, expected, tmp_path):
    assert predict_list(**settings(place, tmp_path, rank=3, world_size=8)).unfinished == 0
    assert contents(tmp_path) == expected


def test_a_process_begins_with_its_share_and_then_helps(place, tmp_path):
    done = []

    def watch(counts, total):
        for count in counts:
            parts = sorted(int(path.stem[5:]) for path in tmp_path.glob("part-*"))
            done.extend(part for part in parts if part not in done)
            yield count

    predict_list(**settings(place, tmp_path, rank=1, world_size=3), watch=watch)
    assert done == [1, 4, 6, 5, 3, 2, 0]


def test_without_locks_each_takes_its_share_only(place, expected, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.warns(UserWarning, match=r"has no locks .*No locks available.* its own share of the parts"):
        found = predict_list(**settings(place, tmp_path, rank=0, world_size=2))
    assert (found.unfinished, found.failed) == (3, None)
    assert sorted(path.stem for path in tmp_path.glob("part-*")) == [f"part-{n:06}" for n in (0, 2, 4, 6)]
    with pytest.warns(UserWarning, match="no locks"):
        assert predict_list(**settings(place, tmp_path, rank=1, world_size=2)).failed == 4
    assert contents(tmp_path) == expected


def test_another_failure_of_a_lock_is_not_taken_for_a_claim(place, tmp_path, monkeypatch):
    real = fcntl.lockf

    def fail_later(handle, how, length, start):
        if start > 0 and how & fcntl.LOCK_NB:
            raise OSError(errno.EIO, "Input/output error")
        real(handle, how, length, start)

    monkeypatch.setattr(fcntl, "lockf", fail_later)
    with pytest.raises(OSError, match="Input/output error"):
        predict_list(**settings(place, tmp_path))
