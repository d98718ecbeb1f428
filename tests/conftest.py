"""What every test starts from."""

import os

import pytest
import torch

# They are loaded all the same. As modules to search for doctests those of two folders would have one name,
# which fails where both folders are named on the command line.
collect_ignore_glob = ["*conftest.py"]
# Test processes share the cores, and threads that wait for one another cost far more than they give.
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
