"""The queue of jobs, with a real worker process and a stand-in for what explains."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
from dataclasses import replace

import fake_explain
import pytest
from serving import save_image, wait_until

from nonlocalnn.explorer import jobs
from nonlocalnn.explorer.job import Limits, Refusal
from nonlocalnn.explorer.jobs import JobQueue

LIMITS = Limits(queued=3, queued_per_client=2)


@pytest.fixture(scope="module")
def shared_queue(models):
    with JobQueue(models, fake_explain.explain, limits=LIMITS) as queue:
        yield queue


@pytest.fixture
def queue(shared_queue):
    yield shared_queue
    # Nothing of one test may wait while the next runs.
    for job in list(shared_queue._jobs.values()):
        with contextlib.suppress(Refusal):  # it has ended
            shared_queue.cancel(job)


def put(queue, title, *models, client="me"):
    job = queue.reserve(client)
    path = save_image(job.folder / "upload.png")
    queue.submit(job, path, title=title, models=models or ("first",))
    return job


def release(job):
    """Let a job go on that is called hold."""
    (job.folder / "go").touch()


def ended(queue, job):
    def is_put_away():
        with queue._changed:
            return job in queue._ended or job.id in queue._dropped

    wait_until(is_put_away)
    return job


def document(queue, job, model="first"):
    return json.loads(queue.document(ended(queue, job), model).read_text())


def refusal(call, *arguments, **named):
    with pytest.raises(Refusal) as caught:
        call(*arguments, **named)
    return caught.value


def test_a_job_runs_with_each_of_its_models(queue):
    job = put(queue, "cat.png", "second", "first")
    assert document(queue, job, "second")["model"] == "second"
    assert document(queue, job, "first") | {"title": "cat.png", "model": "first"} == document(queue, job)
    assert (job.state, job.reason, queue.position(job)) == ("done", None, None)
    assert sorted(entry.name for entry in job.folder.iterdir()) == ["0.json", "1.json"]
    assert job.size == sum(entry.stat().st_size for entry in job.folder.iterdir())
    assert refusal(queue.document, job, "clips").status == 404
    assert queue.find(job.id) is job


def test_kinds_of_models(queue):
    assert queue.kinds == {"first": "image", "second": "image", "clips": "video"}


def test_jobs_run_in_their_order(queue):
    first = put(queue, "hold.png", client="a")
    wait_until(lambda: first.state == "running")
    second, third = put(queue, "2.png", client="b"), put(queue, "3.png", client="c")
    assert [queue.position(job) for job in (first, second, third)] == [None, 1, 2]
    assert refusal(queue.document, first, "first").status == 409
    assert "queued" in str(refusal(queue.document, second, "first"))
    wait_until(lambda: first.step == "explaining with first (1 of 1)")
    release(first)
    times = [document(queue, job)["at"] for job in (first, second, third)]
    assert times == sorted(times)


def test_a_queued_job_is_cancelled_and_the_others_move_up(queue):
    blocking = put(queue, "hold.png", client="a")
    wait_until(lambda: blocking.state == "running")
    second, third = put(queue, "2.png"), put(queue, "3.png")
    queue.cancel(second)
    assert (second.state, queue.position(third), second.folder.exists()) == ("cancelled", 1, False)
    assert refusal(queue.document, second, "first").status == 409
    release(blocking)
    assert document(queue, third)["process"] == document(queue, blocking)["process"]
    assert refusal(queue.cancel, second).status == 409
    assert "it is done" in str(refusal(queue.cancel, third))


@pytest.mark.parametrize(
    ("title", "status", "says"),
    [
        pytest.param("sleep-9000.png", 504, "longer than the 0.5 seconds", marks=pytest.mark.slow),
        pytest.param("memory-1250.png", 422, "more than the 1200 MiB", marks=pytest.mark.slow),
        pytest.param("crash.png", 500, "exit status 7", marks=pytest.mark.slow),
        pytest.param("cancel", 409, "it was cancelled", marks=pytest.mark.slow),
    ],
    ids=["time", "memory", "death", "cancelled"],
)
def test_a_job_that_is_stopped_takes_its_worker_but_no_other_job(queue, title, status, says, monkeypatch):
    before = document(queue, put(queue, "before.png"))["process"]
    limits = {"sleep-9000.png": {"seconds": 0.5}, "memory-1250.png": {"memory_bytes": 1200 << 20}}
    monkeypatch.setattr(queue._runner, "_limits", replace(queue.limits, **limits.get(title, {})))
    job = put(queue, "hold.png" if title == "cancel" else title)
    after = put(queue, "after.png", client="other")
    if title == "cancel":
        wait_until(lambda: job.step == "explaining with first (1 of 1)")
        queue.cancel(job)
    ended(queue, job)
    monkeypatch.undo()
    assert job.state == ("cancelled" if title == "cancel" else "failed")
    error = refusal(queue.document, job, "first")
    assert (error.status, says in str(error)) == (status, True)
    assert not job.folder.exists()
    assert document(queue, after)["process"] != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


@pytest.mark.parametrize(
    ("title", "status", "says"),
    [
        ("refused-.png", 422, "cannot read image refused-.png: it is no good"),
        ("full.png", 422, "more memory than there is"),
        ("disk.png", 500, "the server has no room for the result"),
        ("leak.png", 500, "an unexpected error"),
        ("bug.png", 500, "an unexpected error"),
        ("nan.png", 500, "an unexpected error"),
    ],
)
def test_a_failure_has_a_reason_without_paths_and_the_worker_goes_on(queue, title, status, says):
    before = document(queue, put(queue, "before.png"))["process"]
    job = ended(queue, put(queue, title, "first", "second"))
    assert (job.state, job.status) == ("failed", status)
    assert says in job.reason
    assert str(job.folder.parent) not in job.reason
    assert not job.folder.exists()
    assert document(queue, put(queue, "after.png"))["process"] == before


def test_a_file_of_another_kind_than_its_name_is_refused_by_the_worker(queue):
    job = queue.reserve("me")
    path = job.folder / "upload.png"
    path.write_bytes(b"BM, a text")
    queue.submit(job, path, title="cat.png", models=("first",))
    assert ended(queue, job).status == 422
    assert job.reason.startswith("cannot read image cat.png: it is damaged")


@pytest.mark.slow
def test_a_worker_that_dies_while_it_waits_is_replaced(queue):
    process = document(queue, put(queue, "one.png"))["process"]
    os.kill(process, signal.SIGKILL)
    assert document(queue, put(queue, "two.png"))["process"] != process


def test_an_input_that_is_no_upload_is_left_alone(queue, tmp_path):
    path = save_image(tmp_path / "mine.png")
    job = queue.reserve("me")
    queue.submit(job, path, title="mine.png", models=("first",))
    assert document(queue, job)["bytes"] == path.stat().st_size


def test_few_jobs_wait_and_fewer_of_one_client(queue):
    blocking = put(queue, "hold.png", client="a")
    wait_until(lambda: blocking.state == "running")
    put(queue, "1.png", client="b")
    receiving = queue.reserve("b")
    error = refusal(queue.reserve, "b")
    assert (error.status, "2 of your jobs" in str(error)) == (429, True)
    other = queue.reserve("c")
    error = refusal(queue.reserve, "d")
    assert (error.status, "too many jobs" in str(error)) == (429, True)
    assert 1 <= error.retry_after <= 60
    for job in (receiving, other):
        queue.discard(job)
        assert not job.folder.exists()
    queue.discard(queue.reserve("b"))
    release(blocking)


def test_discarding_a_submitted_job_does_nothing(queue):
    job = put(queue, "cat.png")
    queue.discard(job)
    assert document(queue, job)["title"] == "cat.png"


def test_only_the_last_results_are_kept(queue, monkeypatch):
    monkeypatch.setattr(queue, "limits", replace(queue.limits, kept=2))
    jobs = [ended(queue, put(queue, f"{number}.png")) for number in range(3)]
    error = refusal(queue.find, jobs[0].id)
    assert (error.status, "dropped" in str(error)) == (410, True)
    assert [job.folder.exists() for job in jobs] == [False, True, True]
    assert [queue.find(job.id) for job in jobs[1:]] == jobs[1:]
    assert refusal(queue.find, "another").status == 404


def test_results_are_kept_up_to_a_size_and_the_last_always(queue, monkeypatch):
    small = ended(queue, put(queue, "large-1.png"))
    monkeypatch.setattr(queue, "limits", replace(queue.limits, kept_bytes=2 * small.size + 1000))
    first = ended(queue, put(queue, "large-2.png"))
    assert small.folder.exists()
    second = ended(queue, put(queue, "large-900.png"))
    assert [job.folder.exists() for job in (small, first, second)] == [False, True, True]
    third = ended(queue, put(queue, "large-9000.png"))
    assert [job.folder.exists() for job in (first, second, third)] == [False, False, True]
    assert document(queue, third)["padding"] == "x" * 9000


@pytest.mark.slow
def test_nothing_is_left_at_the_end_even_while_a_job_runs(models, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    copied = shutil.copy(models["first"], tmp_path / "copy.safetensors")
    with JobQueue({"first": copied}, fake_explain.explain) as queue:
        process = document(queue, put(queue, "one.png"))["process"]
        # Models that are gone when a worker must be replaced.
        os.rename(copied, tmp_path / "away")
        os.kill(process, signal.SIGKILL)
        job = ended(queue, put(queue, "two.png"))
        assert (job.status, job.reason) == (500, "the models could not be loaded again")
        os.rename(tmp_path / "away", copied)
        process = document(queue, put(queue, "three.png"))["process"]
        running, waiting = put(queue, "hold.png"), put(queue, "4.png")
        wait_until(lambda: running.step == "explaining with first (1 of 1)")
    assert (running.state, waiting.state) == ("failed", "queued")
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy.safetensors"]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert refusal(queue.reserve, "me").status == 503
    queue.close()


@pytest.mark.slow
def test_models_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no checkpoint absent\.safetensors"):
        JobQueue({"a": "absent.safetensors"}, fake_explain.explain).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_dropped_results_are_not_kept_for_ever(models, monkeypatch):
    monkeypatch.setattr(jobs, "_REMEMBERED", 2)
    queue = JobQueue(models, fake_explain.explain)
    queue._dropped.extend("abc")
    for identity, status in (("a", 404), ("b", 410), ("c", 410)):
        with pytest.raises(Refusal) as caught:
            queue.find(identity)
        assert caught.value.status == status


def test_a_queue_that_is_not_closed_holds_no_program_up(models):
    assert JobQueue(models, fake_explain.explain)._thread.daemon


def test_a_job_whose_folder_is_gone_is_forgotten(queue):
    job = queue.reserve("me")
    shutil.rmtree(job.folder)
    queue.discard(job)
    assert not queue._receiving
