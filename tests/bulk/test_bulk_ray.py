"""Lists answered by workers of Ray: what they answer, what a kill leaves, and what would never end."""

import json
import os
import signal
import sys

import pytest
from bulk_runs import answers, contents, settings

from nonlocalnn.inference.bulk import AnswerPaths, predict_list, ray_engine
from nonlocalnn.inference.bulk.ray_engine import _check_room, _room


def test_a_missing_ray_names_its_extra(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"engine 'ray' needs the library 'ray'.*'nonlocalnn\[ray\]'"):
        predict_list(**settings(place, tmp_path / "out", engine="ray"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("device", "there", "room"),
    [
        ("cpu", {"CPU": 3.0, "GPU": 2.0}, 3),
        ("cuda", {"CPU": 3.0, "GPU": 2.0}, 2),
        ("cuda", {"CPU": 1.0, "GPU": 2.0}, 1),
        ("cuda", {"CPU": 3.0}, 0),
        ("cpu", {}, 0),
    ],
)
def test_room_for_workers(device, there, room):
    assert _room(device, there) == room
    _check_room(room, device, there)
    with pytest.raises(ValueError, match=rf"workers must be at most {room}: .*got {room + 1}"):
        _check_room(room + 1, device, there)


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'nonlocalnn[ray]'")
    pytest.importorskip("ray.data", reason="ray.data is not installed: pip install 'nonlocalnn[ray]'")
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield ray
    ray.shutdown()
    if path is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = path


def _below(pid):
    """Numbers of the processes that a process has started, and that these have started."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as opened:
            children = [int(child) for child in opened.read().split()]
        for child in children:
            yield child
            try:
                yield from list(_below(child))
            except OSError:
                continue


def _workers():
    """Numbers of the processes in which Ray has workers of this process."""
    found = []
    for pid in _below(os.getpid()):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as opened:
                if opened.read().startswith(b"ray::AnswerPaths"):
                    found.append(pid)
        except OSError:
            continue
    return found


def _many(place, tmp_path):
    """Settings for a list of 400 files, ten times those of the place."""
    path = tmp_path / "many.txt"
    path.write_text((place / "files.txt").read_text() * 10)
    return settings(place, tmp_path / "out", list_path=path, root=place, engine="ray", workers=2)


def _are_one_each_in_order(tmp_path):
    names = (tmp_path / "many.txt").read_text().split()
    return [row["path"] for row in answers(tmp_path / "out")] == names


@pytest.mark.slow
def test_two_workers_one_of_which_is_killed_half_way(ray, place, tmp_path):
    killed = []

    def watch(counts, total):
        for count in counts:
            if count == 200:
                killed.append(_workers()[0])
                os.kill(killed[0], signal.SIGKILL)
            yield count

    run = _many(place, tmp_path)
    found = predict_list(**run, watch=watch)
    assert len(killed) == 1
    assert (found.lines, found.failed) == (400, 40)
    assert _are_one_each_in_order(tmp_path)
    predict_list(**{**run, "output_folder": tmp_path / "alone", "engine": "loop", "workers": None})
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


class _Deadly(AnswerPaths):
    """Is killed at one of its files, as by a decoder that does not survive it."""

    def __call__(self, batch):
        if b"images/25.png" in batch["path"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.mark.slow
def test_files_at_which_workers_die_end_the_run_and_what_is_finished_stays(
    ray, place, expected, tmp_path, monkeypatch
):
    run = settings(place, tmp_path, engine="ray", workers=2)
    monkeypatch.setattr(ray_engine, "AnswerPaths", _Deadly)
    with pytest.raises(
        ChildProcessError, match=r"killed 4 times at the same files: .*the same command goes on"
    ):
        predict_list(**run)
    monkeypatch.undo()
    there = {path.name for path in tmp_path.glob("part-*")}
    assert "part-000000.jsonl" in there
    assert "part-000004.jsonl" not in there
    assert predict_list(**run).failed == 4
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_ray_goes_on_where_a_loop_was(ray, place, expected, tmp_path):
    predict_list(**settings(place, tmp_path))
    for number in (1, 3, 6):
        (tmp_path / f"part-{number:06}.jsonl").unlink()
    counts = []
    run = settings(place, tmp_path, engine="ray")
    predict_list(**run, watch=lambda done, _: [counts.append(count) for count in done])
    assert (counts[0], counts[-1]) == (24, 40)
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_what_would_never_start(ray, place, tmp_path, monkeypatch):
    run = settings(place, tmp_path / "out", engine="ray")
    with pytest.raises(ValueError, match=r"workers must be at most 2: each takes a CPU of .*got 3"):
        predict_list(**run, workers=3)
    monkeypatch.setattr(ray_engine, "_START_SECONDS", 20.0)

    @ray.remote(num_cpus=1)
    class Other:
        def ready(self):
            return True

    other = Other.remote()
    assert ray.get(other.ready.remote())
    with pytest.raises(TimeoutError, match="Ray has started 1 of 2 workers in 20 s: end what else runs"):
        predict_list(**run, workers=2)
    assert not (tmp_path / "out").exists()
    ray.kill(other)
    monkeypatch.undo()
    assert predict_list(**run, workers=2).failed == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_in_a_pipeline_of_ray_data(ray, place):
    names = (place / "files.txt").read_text().split()
    rows = [{"path": name, "number": number} for number, name in enumerate(names)]
    answered = ray.data.from_items(rows).map_batches(
        AnswerPaths,
        fn_constructor_args=[place / "model.safetensors"],
        fn_constructor_kwargs={"root": place, "device": "cpu"},
        batch_size=8,
        concurrency=2,
        num_cpus=0.5,
    )
    found = sorted(answered.take_all(), key=lambda row: row["number"])
    assert [row["path"] for row in found] == names
    assert [json.loads(row["answer"])["path"] for row in found] == names
    assert sum("error" in json.loads(row["answer"]) for row in found) == 4
