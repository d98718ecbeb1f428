import pytest
from fault_rank_cases import RANK_FAULTS, two_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hurt(bench):
    return two_ranks(bench, RANK_FAULTS, torchrun=False)


@pytest.mark.parametrize(
    ("name", "statuses"),
    [("killed", (1, -9)), ("3 seconds late", (0, 0)), ("an error", (1, 1))],
    ids=["killed", "late", "error"],
)
def test_one_rank_that_ends_ends_both(hurt, name, statuses):
    assert tuple(each.status for each in hurt[1][name]) == statuses


def test_the_rank_with_an_error_says_it(hurt):
    assert hurt[1]["an error"][1].error == "injected on rank 1"


def test_two_ranks_go_on_bit_for_bit(hurt):
    row, _ = hurt
    assert (row.equal, row.of) == (len(RANK_FAULTS), len(RANK_FAULTS)), row.notes
