import pytest
import torch
from ranks import Ranks


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """As in tiny_process.py: sums over another number of threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ranks():
    """Call with a recipe and each rank's own task to get the answers of all."""
    processes = Ranks()
    yield processes
    processes.close()
