"""What a measurement depends on: code, libraries and machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import nonlocalnn

_LIBRARIES = ("timm", "mmcv-lite", "mmcv", "torchvision", "av", "torchcodec", "aeon")
_ENGINES = ("onnxruntime", "openvino")

# The files beside this one that can change the time of a block.
_OF_BLOCKS = ("baselines", "cells", "floor", "measure", "operator", "ops", "rows")


def about(*, device: str, dtype: str, quick: bool) -> dict[str, Any]:
    """Return date, commit, versions, processor, instructions, threads and settings, as JSON can hold them."""
    versions = {
        "nonlocalnn": nonlocalnn.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in (*_LIBRARIES, *_ENGINES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "source": _source(),
        "versions": versions,
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": _device_name(device),
        "dtype": dtype,
        "quick": quick,
    }


def same_conditions(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two :func:`about` agree in all that times depend on: not the date, nor the commit.

    What the commit stands for is the hash of the measured source, which holds of changed files, too.
    """
    apart = {"date": None, "commit": None}
    return {**one, **apart} == {**other, **apart}


def _source() -> str:
    """Return a hash of what is measured of blocks and what measures them."""
    package = Path(nonlocalnn.__file__).parent
    files = [package / "blocks.py", *sorted(package.glob("functional/*.py"))]
    files += [Path(__file__).with_name(f"{name}.py") for name in _OF_BLOCKS]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _commit() -> str | None:
    """Return the commit of the library that is measured, -dirty where it was changed; None if unknown."""
    package = Path(nonlocalnn.__file__).parent
    try:
        # An installed package may lie within a repository that is not its own.
        _git(package, "ls-files", "--error-unmatch", "blocks.py")
        return _git(package, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device
