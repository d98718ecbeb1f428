"""What holds inside a ``with`` block: for blocks that run in it, and again in its backward pass."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

Value = TypeVar("Value")

# Graphs whose context ended longer ago than this are not known any more. Each holds a few numbers a sample.
_MOST_ENDED = 1000


@dataclass(eq=False)
class _Span(Generic[Value]):
    """A ``with`` block: autograd numbers what a thread records, and these numbers say what ran inside it.

    Args:
        value: What holds.
        owner: The open spans of its thread; which list it is says which thread.
        first: The number of the first operation inside.
        last: One after that of the last; None while the block is open.
        in_backward: It was opened by what a backward pass computes again.
    """

    value: Value
    owner: list[Any]
    first: int
    last: int | None
    in_backward: bool


class _Open(threading.local):
    # Not a context variable: torch.compile reads and guards these in all versions that we serve.
    def __init__(self) -> None:
        self.spans: list[Any] = []


class Scope(Generic[Value]):
    """Values that hold inside ``with`` blocks, the innermost first, in each thread by itself.

    Activation checkpoints run a layer again in the backward pass, when its ``with`` block has ended. It gets
    the value that held then: that of the block in which autograd recorded what the pass has reached.

    Args:
        name: Who opens them, for errors.
        ended: Makes of a value what is kept of it after its block.
    """

    def __init__(self, name: str, *, ended: Callable[[Value], Value] = lambda value: value) -> None:
        self._name, self._of_ended = name, ended
        self._open = _Open()
        self._ended: deque[_Span[Value]] = deque(maxlen=_MOST_ENDED)

    @contextmanager
    def hold(self, value: Value) -> Iterator[None]:
        """Let a value hold for what this thread runs inside."""
        spans, in_backward = self._open.spans, torch._C._current_graph_task_id() != -1
        span = _Span(value, spans, torch._C._autograd._get_sequence_nr(), None, in_backward)
        spans.append(span)
        if not in_backward:
            # A backward pass may run in PyTorch's threads, which see what its caller has put here.
            torch._C._stash_obj_in_tls(self._name, spans)
        try:
            yield
        finally:
            spans.remove(span)
            span.last = torch._C._autograd._get_sequence_nr()
            # Without gradients nothing is recorded, and nothing can run again.
            if span.last > span.first:
                span.value = self._of_ended(span.value)
                self._ended.append(span)

    def current(self) -> Value | None:
        """Return the value that holds here, or None.

        Raises:
            ValueError: A backward pass runs a block again, and which value held there cannot be told.
        """
        spans = self._open.spans
        # A traced program is not a backward pass, whoever runs it.
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
            return spans[-1].value if spans else None
        return self._again(spans)

    def check_replicas(self) -> None:
        """Refuse replicas of a module while this thread is inside such a ``with`` block.

        Raises:
            ValueError: It is.
        """
        if self._open.spans:
            raise ValueError(
                f"nn.DataParallel runs replicas in other threads, on parts of the batch, and {self._name} "
                "holds in this thread, for the whole batch: use DistributedDataParallel"
            )

    def _again(self, here: list[_Span[Value]]) -> Value | None:
        """Return what held where the operation was recorded whose backward pass runs now."""
        if here and here[-1].in_backward:
            return here[-1].value
        is_stashed = torch._C._is_key_in_tls(self._name)
        own: list[_Span[Value]] = torch._C._get_obj_in_tls(self._name) if is_stashed else here
        node = torch._C._current_autograd_node()
        # The innermost first where two begin at one number: inner ones end first, and open last.
        around = [] if node is None else _around(node._sequence_nr(), [*self._ended, *reversed(own)])
        mine = [span for span in around if span.owner is own]
        if mine:
            found = max(mine, key=lambda span: span.first)
            if found.last is not None and _is_nested(node):
                raise ValueError(
                    f"a checkpoint with use_reentrant=True holds another one, and {self._name} has ended "
                    "when they run again: use use_reentrant=False, or run the backward pass inside it, too"
                )
            return found.value
        if own:
            return own[-1].value
        if around:
            # Threads number what they record each for themselves.
            raise ValueError(
                "a backward pass runs a block again, and cannot tell whether its first run was inside "
                f"{self._name} of another thread: run the backward pass inside {self._name}, too"
            )
        return None


def _around(number: int, spans: list[_Span[Value]]) -> list[_Span[Value]]:
    return [span for span in spans if span.first <= number and (span.last is None or number < span.last)]


def _is_nested(node: Any) -> bool:
    """Return whether a reentrant checkpoint runs another checkpoint: the inner one has a number of now."""
    if node.name() != "CheckpointFunctionBackward":
        return False
    # An inner reentrant one runs without gradients, and one of the other kind keeps what is saved.
    has_hooks = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    return not torch.is_grad_enabled() or has_hooks
