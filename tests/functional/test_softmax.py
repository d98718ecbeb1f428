"""PyTorch's kernel for the CPU gets queries in parts where it would deal them unevenly to threads."""

import pytest
import torch

from nonlocalnn.functional import non_local, softmax


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("num_threads", "num_queries", "parts"),
    [
        (1, 784, 1),
        (2, 784, 2),
        (2, 785, 1),  # would leave a query over
        (2, 1024, 1),  # as many each as it is
        (2, 766, 1),  # the kernel deals short ones out by fewer
        (4, 1568, 4),
        (16, 784, 16),
    ],
)
def test_all_threads_get_as_many_queries(with_threads, num_threads, num_queries, parts):
    with_threads(num_threads)
    assert softmax._parts_for_threads(torch.zeros(1, num_queries, 4)) == parts
    assert softmax._parts_for_threads(torch.zeros(2, num_queries, 4)) == 1


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("num_queries", [784, 785, 1568])
def test_parts_give_what_the_whole_does(with_threads, num_queries, masked):
    torch.manual_seed(0)
    parts = [torch.randn(2 if masked else 1, size, 6) for size in (num_queries, 700, 700)]
    key_mask = torch.rand(2, 700) < 0.6 if masked else None
    found = {}
    for num_threads in (1, 2, 4):
        with_threads(num_threads)
        leaves = [part.clone().requires_grad_() for part in parts]
        y = non_local(*leaves, instantiation="embedded_gaussian", key_mask=key_mask, engine="fused")
        y.sin().sum().backward()
        found[num_threads] = (y.detach(), *(leaf.grad for leaf in leaves))
    expected = non_local(
        *(part.double() for part in parts),
        instantiation="embedded_gaussian",
        key_mask=key_mask,
        engine="reference",
    )
    torch.testing.assert_close(found[1][0], expected.float())
    for num_threads in (2, 4):
        torch.testing.assert_close(found[num_threads], found[1], rtol=1e-4, atol=1e-5)
