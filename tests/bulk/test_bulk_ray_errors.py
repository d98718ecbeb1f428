"""What is said when Ray fails: with a stand-in of Ray, since the real one fails only by chance."""

import sys
import types

import pytest

from nonlocalnn.inference.bulk.ray_engine import RayWorkers, ray_workers


class _Call:
    """An actor's method: its answer comes when the pool asks for it."""

    def __init__(self, function):
        self.remote = function


class _Actor:
    """Stands for ``ray.remote(AnswerPaths)``, for its options, and for a worker."""

    def __init__(self, ray):
        self.ray = ray

    def options(self, **options):
        self.ray.asked.append(options)
        return self

    def remote(self, **settings):
        worker = _Actor(self.ray)
        worker.__ray_ready__ = _Call(lambda: "ready")
        self.ray.started.append((worker, settings))
        return worker


class _Ray(types.ModuleType):
    """As much of Ray as the engine asks, on a cluster of two CPUs."""

    class RayError(Exception):
        pass

    def __init__(self, *, fails=None, resources=None):
        super().__init__("ray")
        self.asked, self.started, self.killed, self.was_shut_down = [], [], [], False
        self.exceptions = types.SimpleNamespace(RayError=self.RayError)
        self.util = types.ModuleType("ray.util")
        self.util.ActorPool = lambda workers: ("a pool of", workers)
        self.fails, self.resources, self.initialized = fails, resources or {"CPU": 2.0}, False

    def is_initialized(self):
        return self.initialized

    def init(self, **settings):
        self.initialized = True

    def cluster_resources(self):
        return self.resources

    def remote(self, kind):
        return _Actor(self)

    def get(self, ready, timeout):
        if self.fails is not None:
            raise self.fails

    def wait(self, ready, num_returns, timeout):
        return ready[:1], ready[1:]

    def kill(self, worker):
        self.killed.append(worker)

    def shutdown(self):
        self.was_shut_down = True


class _Pool:
    """Gives the answers that are listed, and raises the errors among them."""

    def __init__(self, *coming):
        self.coming, self.units = list(coming), []

    def submit(self, ask, unit):
        worker = types.SimpleNamespace(__call__=_Call(self.units.append))
        ask(worker, unit)

    def has_next(self):
        return bool(self.coming)

    def get_next_unordered(self, timeout):
        found = self.coming.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def install(monkeypatch):
    def put(ray):
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.util", ray.util)
        return ray

    return put


def test_answers_come_as_they_are_ready_and_a_wait_is_no_end(install):
    install(_Ray())
    pool = _Pool({"line": [1], "answer": ["b"]}, TimeoutError(), {"line": [0], "answer": ["a"]})
    found = RayWorkers("cpu", pool, 2).answers(["one", "d\udcfcck"], [range(1), range(1, 2)])
    assert list(found) == [(1, "b"), (0, "a")]
    assert pool.units == [{"line": [0], "path": [b"one"]}, {"line": [1], "path": [b"d\xfcck"]}]


def test_machines_that_left_are_noticed_while_it_waits(install):
    install(_Ray(resources={"CPU": 1.0}))
    with pytest.raises(ValueError, match=r"workers must be at most 1: each takes a CPU .*; got 2"):
        list(RayWorkers("cpu", _Pool(TimeoutError()), 2).answers(["one"], [range(1)]))


def test_files_at_which_workers_die_end_the_run(install):
    ray = install(_Ray())
    with pytest.raises(ChildProcessError, match="killed 4 times at the same files: it died; finished"):
        list(RayWorkers("cpu", _Pool(ray.RayError("it\ndied")), 2).answers(["one"], [range(1)]))


@pytest.mark.parametrize(
    ("resources", "device", "used", "size"),
    [
        ({"CPU": 2.0}, "auto", "cpu", 2),
        ({"CPU": 4.0, "GPU": 1.0}, "auto", "cuda", 1),
        ({"CPU": 4.0, "GPU": 1.0}, "cpu", "cpu", 4),
    ],
)
@pytest.mark.parametrize("is_ours", [True, False], ids=["a cluster of our own", "another's cluster"])
def test_workers_are_ended_and_a_cluster_that_was_there_goes_on(
    install, resources, device, used, size, is_ours
):
    ray = install(_Ray(resources=resources))
    ray.initialized = not is_ours
    with ray_workers({"model": "m"}, workers=None, device=device) as workers:
        assert (workers.device, workers.size) == (used, size)
        assert not ray.killed
    assert ray.asked[0]["num_gpus"] == int(used == "cuda")
    assert [settings for _, settings in ray.started] == [{"model": "m", "device": used}] * size
    assert ray.killed == [worker for worker, _ in ray.started]
    assert ray.was_shut_down == is_ours


@pytest.mark.parametrize(
    ("fails", "kind", "says"),
    [
        (TimeoutError(), TimeoutError, "Ray has started 1 of 2 workers in 300 s: end what else"),
        (_Ray.RayError("no such\nmodel"), ChildProcessError, "could not load the model: no such model"),
    ],
    ids=["others hold the CPUs", "no model"],
)
def test_workers_that_do_not_start_leave_nothing_behind(install, fails, kind, says):
    ray = install(_Ray(fails=fails))
    with pytest.raises(kind, match=says), ray_workers({}, workers=2, device="cpu"):
        pytest.fail("it began all the same")
    assert ray.killed == [worker for worker, _ in ray.started]
    assert ray.was_shut_down


def test_more_workers_than_there_is_room_for_are_refused_before_any_starts(install):
    ray = install(_Ray())
    with (
        pytest.raises(ValueError, match="workers must be at most 2"),
        ray_workers({}, workers=3, device="cpu"),
    ):
        pytest.fail("it began all the same")
    assert not ray.started
    assert ray.was_shut_down
