"""A driver that is stopped leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_ending import descendants

HERE = Path(__file__).resolve().parent
# A driver with a child in a session of its own, which has one itself, as torchrun's ranks are.
DRIVER = f"""
import signal, subprocess, sys, time
# A shell's background jobs, of which the tests may be one, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {str(HERE)!r})
from fault_ending import nothing_left
child = '''
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("started", flush=True)
time.sleep(60)
'''
with nothing_left():
    one = subprocess.Popen([sys.executable, "-c", child], start_new_session=True, stdout=subprocess.PIPE)
    one.stdout.readline()
    print("ready", flush=True)
    time.sleep(60)
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_it_started_ends_with_it(number):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert driver.stdout.readline() == "ready\n"
        below = descendants(driver.pid)
        assert len(below) == 2
        driver.send_signal(number)
        assert driver.wait(20) != 0
        assert not [pid for pid in below if is_running(pid)]
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()


@pytest.mark.slow
def test_the_driver_itself(tmp_path):
    driver = subprocess.Popen(
        [sys.executable, str(HERE / "run_faults.py"), "--kills", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 120
        while len(below := descendants(driver.pid)) < 3:
            assert driver.poll() is None
            assert time.monotonic() < end, "it did not start a run in time"
            time.sleep(0.05)
        driver.terminate()
        assert driver.wait(60) == 128 + signal.SIGTERM
        assert not [pid for pid in below if is_running(pid)]
        assert list(tmp_path.iterdir()) == []
    finally:
        driver.kill()
        driver.wait()
