"""What training asks of a task and of its data, whatever is learnt.

A task says which data there is, how the network is made and what the loss and the figures are. What is
particular to images, videos or sequences is an :class:`~nonlocalnn.tasks.inputs.InputKind`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn


class Samples(Protocol):
    """What the training loop asks of a data set.

    One whose samples differ in size also has ``collate``, which makes a batch of a list of its items, and
    perhaps ``groups``, a number for each sample: batches are then of samples with the same number. Sequences
    of files have ``num_steps``, the length of each.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def sample_id(self, index: int, /) -> str:
        """Return the name of a sample by which a person finds it."""
        ...


D = TypeVar("D", bound=Samples)


class Task(Protocol[D]):
    """What the training loop asks of a task, such as that of classification.py."""

    @property
    def metric(self) -> str:
        """Name of the score that picks the best epoch, a key of what ``evaluate`` returns; more is better."""
        ...

    def data(self, split: str) -> D:
        """Return the split "train", "validation" or "test"; "test" is asked for once, after the training."""
        ...

    def model(self, data: D) -> nn.Module:
        """Return a new network for the training data, its weights drawn from torch's global generator."""
        ...

    def loss(self, model: nn.Module, batch: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over a collated batch, and further means to log, all of shape ().

        A batch is a sequence of tensors, or of lists and dictionaries of tensors.
        It is also called without gradients, where statistics of norms are averaged anew.
        """
        ...

    def evaluate(
        self, model: nn.Module, data: D, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return JSON values: the metric, "loss" where there is one, and what else the test should keep."""
        ...

    def metadata(self, data: D) -> dict[str, Any]:
        """Return, as JSON values, what a user of the weights must know of the training data."""
        ...
