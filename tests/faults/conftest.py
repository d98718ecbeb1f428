import pytest
from fault_runs import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """Where runs are hurt; the uninterrupted ones to compare with are shared by all tests."""
    return Bench(tmp_path_factory.mktemp("faults"))
