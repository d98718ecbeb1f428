"""Tests in forked processes that have imported and collected everything, on a copy of the sources."""

import compileall
import ctypes
import importlib
import inspect
import json
import os
import py_compile
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_MEMORY = 16 << 30
_PR_SET_CHILD_SUBREAPER = 36


class Scratch:
    """A copy of the project in which files may be broken.

    Args:
        folder: Where; it is made.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.root = self.folder / "project"
        self.package = self.root / "src" / "nonlocalnn"
        left_out = shutil.ignore_patterns(".*", "__pycache__", "site", "runs", "dist")
        shutil.copytree(_ROOT, self.root, ignore=left_out)
        # A changed file is known by its hash: its time and size may be those of the mutant before.
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(self.root / "src", quiet=2, invalidation_mode=mode)

    def with_tests(self, places, work):
        """Collect tests in a new process, call ``work`` there with a :class:`Tests`, return its result."""
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = self._collect(places, work)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
            os._exit(status)
        _, status = os.waitpid(child, 0)
        result = self.folder / "result.json"
        if status or not result.exists():
            said = (self.folder / "said.txt").read_text()[-2000:]
            raise RuntimeError(f"the tests of {' '.join(places)} could not be tried: {said}")
        return json.loads(result.read_text())

    def _collect(self, places, work):
        import pytest

        # What tests leave behind becomes a child of this process, which can end it.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        os.chdir(self.root)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        out = os.open(self.folder / "said.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ.update(TMPDIR=str(self.folder / "tmp"), PYTHONDONTWRITEBYTECODE="1")
        os.environ["PYTHONPATH"] = str(self.root / "src")
        sys.dont_write_bytecode = True
        # Processes that tests spawn would import this script as their own.
        sys.modules["__main__"].__dict__.pop("__file__", None)
        sys.path[:] = [str(self.root / "src"), *sys.path[1:]]
        words = ["--color=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", *places]
        return int(pytest.main(words, plugins=[_Plugin(self, work)]))


class _Plugin:
    def __init__(self, scratch, work):
        self._scratch = scratch
        self._work = work

    def pytest_runtestloop(self, session):
        result = self._work(Tests(self._scratch, session))
        (self._scratch.folder / "result.json").write_text(json.dumps(result))
        return True


class Tests:
    """The tests that were collected; each run of some is a fork of this process.

    Args:
        scratch: The :class:`Scratch`.
        session: pytest's.
    """

    def __init__(self, scratch, session):
        self._scratch = scratch
        self._items = {item.nodeid: item for item in session.items}
        self.names = list(self._items)

    def run(self, names, *, seconds, measured=(), stop=True, change=None):
        """Run tests in their order.

        Args:
            names: Of tests.
            seconds: How long they may take.
            measured: Files of the package whose lines are watched.
            stop: Whether the first test that fails is the last.
            change: Called before the first test.

        Returns:
            Whether all of them ended in time; and for each that ended a dictionary with "outcome", "seconds"
            and "lines" by file.
        """
        folder = self._scratch.folder
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        (folder / "tmp").mkdir()
        told = folder / "told.json"
        told.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                if change is not None:
                    change()
                told.write_text(json.dumps(self._run(names, measured, stop)))
            finally:
                os._exit(0)
        in_time = _wait(child, seconds)
        _end_children()
        return in_time, json.loads(told.read_text()) if told.exists() else {}

    def _run(self, names, measured, stop):
        import coverage

        items = [self._items[name] for name in names]
        reports = _Reports()
        items[0].config.pluginmanager.register(reports)
        watch = coverage.Coverage(
            data_file=None,
            include=[str(self._scratch.package / file) for file in measured],
            config_file=False,
        )
        if measured:
            watch.start()
        for item, following in zip(items, [*items[1:], None], strict=True):
            if measured:
                watch.switch_context(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if stop and reports.tests[item.nodeid]["outcome"] == "failed":
                break
        if measured:
            watch.stop()
            data = watch.get_data()
            for path in data.measured_files():
                file = Path(path).relative_to(self._scratch.package).as_posix()
                for line, ran in data.contexts_by_lineno(path).items():
                    for name in set(ran) & set(reports.tests):
                        reports.tests[name]["lines"].setdefault(file, []).append(line)
        return reports.tests

    def run_anew(self, names, *, seconds):
        """Run tests in a new interpreter; return whether it ended in time, and the test that failed."""
        words = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *names]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            _end_children()
            return False, None
        _end_children()
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return True, None if done.returncode == 0 else failed[1] if failed else "import"


class _Reports:
    def __init__(self):
        self.tests = {}

    def pytest_runtest_logreport(self, report):
        new = {"outcome": "passed", "seconds": 0.0, "lines": {}}
        test = self.tests.setdefault(report.nodeid, new)
        test["seconds"] += report.duration
        if report.outcome != "passed":
            test["outcome"] = report.outcome


def change_of(mutant):
    """Return a function that puts a mutant's body into place, or None where that takes a new interpreter."""
    function = mutant.function
    module = importlib.import_module(
        f"nonlocalnn.{function.file.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")
    )
    held = module
    for name in function.name.split("."):
        held = vars(held).get(name)
    held = held.fget if isinstance(held, property) else held
    held = held.__func__ if isinstance(held, staticmethod | classmethod) else held
    held = inspect.unwrap(held) if callable(held) else held
    code = _code_of(compile(mutant.source, module.__file__, "exec", dont_inherit=True), function.name)
    mine = getattr(held, "__code__", None)
    if mutant.is_outside_body or mine is None or mine.co_qualname != function.name:
        return None
    if mine.co_freevars != code.co_freevars:
        return None
    return lambda: setattr(held, "__code__", code)


def _code_of(code, name):
    for part in name.split("."):
        (code,) = [each for each in code.co_consts if getattr(each, "co_name", None) == part][-1:]
    return code


def _wait(child, seconds):
    """Return whether a process ended in time; it is ended where it did not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _end_children():
    """End what the tests have left: this process has no other children."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for child in map(int, children):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
