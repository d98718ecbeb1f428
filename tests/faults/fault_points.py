"""Faults inside a training process: at a chosen moment it dies, or its disk, data or clock goes wrong.

Moments have names. ``sample`` is the reading of a training sample, ``validation`` that of a validation image.
Of each file that a run writes they are ``begin NAME`` (its temporary file is there), ``half NAME`` (with half
of its bytes), ``whole NAME`` (with all of them), ``synced NAME`` and ``renamed NAME``. Of a state's tensors
they are ``half tensors``, ``whole tensors`` and ``synced tensors``; of its folder ``moved last``, when the
state before has made way and the new one has not its name yet, and ``moved last.new``, when it has.
"""

import dataclasses
import os
import re
import resource
import shutil
import signal
import tempfile
import time
from multiprocessing.util import Finalize
from pathlib import Path

import torch

NOBODY = 65534


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong, and when.

    Args:
        moment: See the module.
        count: At which of these moments, from 1 in each process. Of ``sample`` with "nan": which sample.
        action: A name of ``ACTIONS``, or "nan" or "clock".
        path: What the action does it to.
        amount: Bytes, seconds, or a signal's number.
        rank: Only on this rank; None is each.
    """

    moment: str = ""
    count: int = 1
    action: str = "kill"
    path: str = ""
    amount: float = 0
    rank: int | None = None


def _kill(fault, written):
    os.kill(os.getpid(), signal.SIGKILL)


def _limit(fault, written):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.amount), resource.RLIM_INFINITY))


def _fill(fault, written):
    """Leave ``amount`` bytes of the disk that holds ``path``'s folder."""
    free = os.statvfs(Path(fault.path).parent)
    with open(fault.path, "wb") as ballast:
        ballast.write(bytes(max(0, free.f_bavail * free.f_frsize - int(fault.amount))))


def _remove(fault, written):
    path = Path(fault.path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _replace(fault, written):
    """Put a file where the folder was."""
    shutil.rmtree(fault.path)
    Path(fault.path).write_text("not a folder")


def _cut(fault, written):
    os.truncate(fault.path, os.path.getsize(fault.path) // 2)


def _forbid(fault, written):
    os.chmod(fault.path, 0)
    _be_nobody()


def _sleep(fault, written):
    time.sleep(fault.amount)


def _fail(fault, written):
    raise OSError(f"injected on rank {os.environ['RANK']}")


def _signal(fault, written):
    """Signal all processes of the session, as a scheduler does."""
    os.killpg(0, int(fault.amount))


ACTIONS = {
    "kill": _kill,
    "limit": _limit,
    "fill": _fill,
    "remove": _remove,
    "replace": _replace,
    "cut": _cut,
    "forbid": _forbid,
    "sleep": _sleep,
    "fail": _fail,
    "signal": _signal,
}


def install(fault):
    """Arm this process; patched names stay patched until it ends."""
    if fault.rank is not None and os.environ.get("RANK") != str(fault.rank):
        return
    if fault.action == "clock":
        _turn_back_the_clock()
    elif fault.action == "nobody":
        _be_nobody()
    elif fault.action == "nan":
        _poison(fault.count)
    elif fault.moment == "sample":
        _watch_samples(_Trigger(fault))
    elif fault.moment == "validation":
        _watch_validation(_Trigger(fault))
    else:
        _watch_files(_Trigger(fault))


class _Trigger:
    def __init__(self, fault):
        self.fault = fault
        self.seen = 0

    def __call__(self, moment, written=None):
        if self.fault.moment != moment:
            return
        self.seen += 1
        if self.seen == self.fault.count:
            if moment.startswith("half "):
                os.truncate(written, os.path.getsize(written) // 2)
            if self.fault.action == "kill":
                # Where it was, for the one who counts.
                os.write(2, f"killed at {moment}\n".encode())
            ACTIONS[self.fault.action](self.fault, written)


def _watch_samples(trigger):
    from nonlocalnn.train.order import SeededSamples

    read = SeededSamples.__getitem__

    def watched(self, index):
        trigger("sample")
        return read(self, index)

    SeededSamples.__getitem__ = watched


def _watch_validation(trigger):
    from nonlocalnn.data.stored_images import StoredImages

    read = StoredImages.read

    def watched(self, index):
        if "/validation/" in self.sample_id(index):
            trigger("validation")
        return read(self, index)

    StoredImages.read = watched


def _poison(bad):
    from nonlocalnn.train.order import SeededSamples

    read = SeededSamples.__getitem__

    def poisoned(self, index):
        (image, target), number = read(self, index)
        return (torch.full_like(image, float("nan")) if index == bad else image, target), number

    SeededSamples.__getitem__ = poisoned


def _watch_files(trigger):
    mkstemp, fsync, replace = tempfile.mkstemp, os.fsync, os.replace
    written = {}

    def name_of(path):
        found = re.fullmatch(r"\.(.+)\.[^.]+\.part", os.path.basename(path))
        return found and found[1]

    def has_all_bytes(path):
        if not written[path]:
            written[path] = True
            trigger(f"half {name_of(path)}", path)
            trigger(f"whole {name_of(path)}", path)

    def watched_mkstemp(*args, **kwargs):
        handle, path = mkstemp(*args, **kwargs)
        if name_of(path):
            written[path] = False
            trigger(f"begin {name_of(path)}", path)
        return handle, path

    def watched_fsync(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        ours = path in written
        if ours:
            has_all_bytes(path)
        elif path.endswith(".distcp"):
            trigger("half tensors", path)
            trigger("whole tensors", path)
        fsync(handle)
        if ours:
            trigger(f"synced {name_of(path)}", path)
        elif path.endswith(".distcp"):
            trigger("synced tensors", path)

    def watched_replace(source, target):
        source, target = os.fspath(source), os.fspath(target)
        if source not in written:
            replace(source, target)
            trigger(f"moved {os.path.basename(source)}")
            return
        replace(source, target)
        trigger(f"renamed {name_of(source)}")

    tempfile.mkstemp, os.fsync, os.replace = watched_mkstemp, watched_fsync, watched_replace


def _turn_back_the_clock():
    """Let every look at the clock find it a minute earlier than the last."""
    start, looks = time.time(), iter(range(1, 1 << 30))
    time.time = lambda: start - 60 * next(looks)


def _be_nobody():
    """Let permissions count: root may do everything."""
    if os.geteuid() == 0:
        # At its end a reader removes a socket, which was made before.
        Finalize(None, os.seteuid, args=(0,), exitpriority=1000)
        os.seteuid(NOBODY)
