"""The concatenation form on GPUs, as far as a CPU can tell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nonlocalnn.functional import concatenation

KERNELS = Path(__file__).with_name("triton_kernels.py")


def test_kernels_equal_the_equation():
    pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")
    # How its kernels run is decided when Triton is imported, for the whole process.
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", str(KERNELS)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"\b36 passed", run.stdout)


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus(capability):
    triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nonlocalnn.functional import concatenation_triton as kernels

    types = dict.fromkeys(("a_order", "b_order", "order"), "*i64")
    types |= dict.fromkeys(("first", "last"), "*i32")
    types |= dict.fromkeys(("num_queries", "num_keys", "num_blocks", "width"), "i32")
    constants = {"BLOCK": 64, "CHANNELS": 64, "WANTS_SUMS": True, "WANTS_DOTS": True, "PRECISION": "tf32"}
    for kernel in (kernels._block_kernel, kernels._sum_kernel):
        known = {name: value for name, value in constants.items() if name in kernel.arg_names}
        signature = {name: types.get(name, "*fp32") for name in kernel.arg_names} | dict.fromkeys(
            known, "constexpr"
        )
        source = ASTSource(kernel, signature, known)
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def test_the_cpu_and_wide_numbers_go_another_way(monkeypatch):
    assert concatenation._gpu_engine(torch.zeros(1, 1, 1)) is None
    monkeypatch.setattr(concatenation, "_has_triton", lambda: True)
    assert concatenation._gpu_engine(torch.zeros(1, 1, 1)) is None
    if torch.cuda.is_available():
        assert concatenation._gpu_engine(torch.zeros(1, 1, 1, device="cuda", dtype=torch.float64)) is None
