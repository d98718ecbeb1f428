"""Runs of masks, objects and points in two processes, killed without a word, go on bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import workers
from tiny_task import assert_identical, final_state

from keypoint_pictures import write_keypoints
from mask_pictures import write_folder
from object_pictures import write_roboflow

RUNS = {
    "masks": (write_folder, ["masks", "--model", "nl_fcn_tiny", "--resize", "24", "--image-size", "24"]),
    "objects": (write_roboflow, ["coco", "--model", "nl1_maskrcnn_tiny", "--resize", "64"]),
    "points": (
        write_keypoints,
        ["coco-keypoints", "--model", "nl2head1_keypointrcnn_tiny", "--resize", "64"],
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_killed_goes_on_bit_for_bit(name, tmp_path):
    """Killed in mid-epoch, and begun again by the same command."""
    write, words = RUNS[name]
    root = write(tmp_path / "data", train=8, others=1)
    words = ["train", "--data", *words, "--data-dir", str(root), "--batch-size", "2", "--epochs", "3"]
    words += ["--device", "cpu", "--seed", "3", "--num-workers", "1"]
    words += ["--checkpoint-every", "1", "--resume-if-any"]

    def start(output):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.Popen(
            [*command, "-m", "nonlocalnn", *words, "--output", str(tmp_path / output)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    assert start("whole").wait(timeout=900) == 0
    first = start("parts")
    while not (tmp_path / "parts/last").is_dir():
        assert first.poll() is None
        time.sleep(0.05)
    ranks = workers(first.pid)
    assert len(ranks) == 2
    # Torchrun first: it would begin its workers again, or ask those that are left to end.
    for process in (first.pid, *ranks):
        os.kill(process, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "parts/metrics.json").exists()
    assert start("parts").wait(timeout=900) == 0
    assert_identical(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))
