"""What blocks know inside a ``with`` block: in threads, in backward passes and in programs made of them."""

import sys
import threading
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.functional import scopes
from nonlocalnn.functional.scopes import Scope
from tolerances import assert_near, assert_same

SIZES, CANVAS = [(7, 5), (3, 2)], (7, 5)
OTHERS = [(2, 3), (7, 4)]


def made():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nl.NonLocal2d(6, norm="group"), nn.Tanh())
    return randomize_(net).double()


def draw():
    return torch.randn(2, 3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def in_threads(*functions):
    """Run functions at once, and raise what they raise."""
    errors = []

    def caught(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caught, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def known(sizes):
    return nullcontext() if sizes is None else nl.real_positions(sizes, CANVAS)


def gradients(net, run, sizes=SIZES, inside=False):
    """Of all parameters and the input, with the backward pass inside the context or after it."""
    x = draw().requires_grad_()
    with known(sizes):
        loss = run(net, x).square().sum()
        if inside:
            return torch.autograd.grad(loss, [x, *net.parameters()])
    return backward(loss, net, x)


def backward(loss, net, x):
    # Reentrant checkpoints know backward() only.
    leaves = [x, *net.parameters()]
    for leaf in leaves:
        leaf.grad = None
    loss.backward()
    return [leaf.grad.clone() for leaf in leaves]


def plain(net, x):
    return net(x)


def again(reentrant):
    return lambda net, x: checkpoint(net, x, use_reentrant=reentrant)


reentrants = pytest.mark.parametrize("reentrant", [True, False])


def test_threads_do_not_see_each_others_sizes():
    net, x = made(), draw()
    wanted = {}
    for name, sizes in (("one", SIZES), ("other", OTHERS), ("none", None)):
        with known(sizes):
            wanted[name] = net(x)
    assert len({float(z.detach().sum()) for z in wanted.values()}) == 3
    barrier = threading.Barrier(3, timeout=30)

    def run(name, sizes):
        for _ in range(5):
            with known(sizes):
                barrier.wait()  # all contexts are open, and all are entered before a block runs
                z = net(x)
                barrier.wait()
            assert_same(z, wanted[name])

    in_threads(lambda: run("one", SIZES), lambda: run("other", OTHERS), lambda: run("none", None))


@pytest.mark.slow
def test_a_compiled_block_takes_the_sizes_of_its_thread():
    torch.compiler.reset()
    net, x = made(), draw()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with known(SIZES):
        assert_near(compiled(x), net(x))
        with known(OTHERS):
            assert_near(compiled(x), net(x))
        # No sizes here, where the compiled block is not called first in this thread.
        found = []
        in_threads(lambda: found.append(compiled(x)))
    assert_near(found[0], net(x))


def test_a_graph_of_fx_asks_for_sizes_when_it_runs():
    net, x = made().eval(), draw()
    with known(OTHERS):
        graph = torch.fx.symbolic_trace(net)
    with known(SIZES):
        assert_near(graph(x), net(x))
    assert_near(graph(x), net(x))


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_every_canvas_is_the_same_program(backend):
    torch.compiler.reset()
    net, x = made(), draw()
    programs = []

    def counted(graph, inputs):
        programs.append(graph)
        return graph if backend == "eager" else torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(net, fullgraph=True, backend=counted)
    for side in range(8, 20):
        with nl.real_positions([(side, side - 1), (side - 3, 4)], (side, side + 1)):
            assert_near(compiled(x), net(x))
    assert len(programs) == 1


@reentrants
@pytest.mark.parametrize("inside", [False, True])
def test_a_checkpointed_block_is_run_again_with_its_sizes(reentrant, inside):
    net = made()
    wanted = gradients(net, plain)
    x = draw().requires_grad_()
    with known(SIZES):
        loss = again(reentrant)(net, x).square().sum()
        if inside:
            found = backward(loss, net, x)
    if not inside:
        found = backward(loss, net, x)
    assert_near(found, wanted)
    assert not torch.allclose(found[0], gradients(net, plain, None)[0])


@reentrants
def test_every_graph_is_run_again_with_the_sizes_of_its_own(reentrant):
    net, graphs = made(), []
    for sizes in (SIZES, None, OTHERS, [CANVAS] * 2):
        x = draw().requires_grad_()
        with known(sizes):
            graphs.append((sizes, x, again(reentrant)(net, x).square().sum()))
    for sizes, x, loss in reversed(graphs):
        # In another context than that of the first run, too.
        with known(OTHERS if sizes is SIZES else None):
            found = backward(loss, net, x)
        assert_near(found, gradients(net, plain, sizes))


@reentrants
def test_contexts_in_one_another_and_in_what_runs_again(reentrant):
    net = made()

    def inner(net, x):
        with known(OTHERS):
            return net(x)

    wanted = gradients(net, plain, OTHERS)
    x = draw().requires_grad_()
    with known(SIZES):  # the inner one is opened by the checkpoint's function, or around it
        outer, opened = net(x), checkpoint(inner, net, x, use_reentrant=reentrant)
        with known(OTHERS):
            around = again(reentrant)(net, x)
    assert not torch.allclose(outer, opened)
    assert_near(backward(opened.square().sum(), net, x), wanted)
    assert_near(backward(around.square().sum(), net, x), wanted)


@reentrants
def test_two_threads_train_with_checkpoints(reentrant):
    wanted = {id(sizes): gradients(made(), plain, sizes) for sizes in (SIZES, OTHERS)}

    def train(net, sizes):
        for _ in range(5):
            assert_near(gradients(net, again(reentrant), sizes), wanted[id(sizes)])

    # Made one after the other: threads share the generator that weights are drawn from.
    one, other = made(), made()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        in_threads(lambda: train(one, SIZES), lambda: train(other, OTHERS))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpoints_in_one_another():
    net = made()
    wanted = gradients(net, plain)

    def nested(outer, inner):
        return lambda net, x: checkpoint(
            lambda x: checkpoint(net, x * 1, use_reentrant=inner), x, use_reentrant=outer
        )

    assert_near(gradients(net, nested(False, False)), wanted)
    for inner in (True, False):
        run = nested(True, inner)
        with pytest.raises(ValueError, match="holds another one, and real_positions has ended when they run"):
            gradients(net, run)
        x = draw().requires_grad_()
        with known(SIZES):
            assert_near(backward(run(net, x).square().sum(), net, x), wanted)
        assert_near(gradients(net, run, None), gradients(net, plain, None))


def test_a_graph_of_another_thread_is_refused():
    net, x, losses = made(), draw().requires_grad_(), []
    scope = nl.functional.masks.KNOWN_SIZES

    def forward():
        with known(SIZES):
            losses.append(again(True)(net, x).square().sum())

    scope._ended.clear()
    in_threads(forward)
    # The number of a thread's first operation is that of another's.
    with pytest.raises(ValueError, match="cannot tell whether its first run was inside real_positions"):
        losses[0].backward()
    in_threads(forward)
    with known(SIZES):
        assert_near(backward(losses[1], net, x), gradients(net, plain, inside=True))


def test_few_contexts_are_kept(monkeypatch):
    monkeypatch.setattr(scopes, "_MOST_ENDED", 3)
    scope = Scope("context")
    x = torch.ones(2, requires_grad=True)
    for number in range(5):
        with scope.hold(number):
            x * 2
    assert [span.value for span in scope._ended] == [2, 3, 4]
    with torch.no_grad(), scope.hold(5):
        x * 2
    assert [span.value for span in scope._ended] == [2, 3, 4]


@pytest.mark.parametrize(
    "make",
    [
        lambda net, x: torch.export.export(net, (x,), strict=False),
        lambda net, x: torch.export.export(net, (x,), strict=True),
        lambda net, x: torch.jit.trace(net, (x,)),
    ],
    ids=["export", "strict export", "trace"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*is deprecated", "ignore::torch.jit.TracerWarning")
def test_programs_do_not_keep_the_sizes_of_their_example(make):
    net, x = made().eval(), draw()
    # Dynamo wraps the error of a block in one of its own.
    with known(SIZES), pytest.raises(Exception, match="inside real_positions would keep the sizes of its ex"):
        make(net, x)
    assert make(net, x) is not None


def test_replicas_of_data_parallel_are_refused():
    block = nl.NonLocal2d(6)
    assert isinstance(block._replicate_for_data_parallel(), nl.NonLocal2d)
    with (
        known(SIZES),
        pytest.raises(ValueError, match=r"DataParallel runs replicas in other threads.*real_positions"),
    ):
        block._replicate_for_data_parallel()


@pytest.mark.parametrize("empty", [[], (), torch.zeros(0, 2, dtype=torch.long)])
def test_a_batch_of_no_samples(empty):
    block = nl.NonLocal2d(6)
    with nl.real_positions(empty, CANVAS):
        assert block(torch.zeros(0, 6, 7, 5)).shape == (0, 6, 7, 5)
        with pytest.raises(ValueError, match="sizes of 0 samples, and a block meets 2"):
            block(torch.zeros(2, 6, 7, 5))
