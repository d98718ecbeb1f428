"""What every test starts from."""

import pytest
import torch

# Test processes share the cores, and threads that wait for one another cost far more than they give.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
