"""A network together with what changes it, one optimiser step at a time."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from nonlocalnn.evaluate import autocast_for
from nonlocalnn.train.distributed import Group, without_sync
from nonlocalnn.train.optimizer import build_optimizer
from nonlocalnn.train.order import Samples, mix
from nonlocalnn.train.recipe import Recipe
from nonlocalnn.train.signals import StopRequest
from nonlocalnn.train.task import Task

Part = tuple[Sequence[Tensor], Tensor]


class NonFiniteLossError(ArithmeticError):
    """A loss or a gradient became infinite or not a number.

    Args:
        message: What happened and where.
        sample_ids: The samples of the batch on the ranks where it happened.
    """

    def __init__(self, message: str, sample_ids: list[str]) -> None:
        super().__init__(message)
        self.sample_ids = sample_ids


@dataclass(frozen=True)
class StepReport:
    """What a step found, the same on every rank.

    Args:
        logs: Means over the whole batch, "loss" among them.
        signal_number: The signal that asked any rank to stop; 0 for none.
    """

    logs: dict[str, float]
    signal_number: int


class Learner:
    """A network, its optimiser and its gradient scaler.

    Args:
        model: The network; moved to the group's device.
        task: Computes the loss.
        recipe: The run's recipe.
        group: The processes of the run.
        samples: The training data, for the names of samples in errors.
    """

    def __init__(
        self, model: nn.Module, *, task: Task[Any], recipe: Recipe, group: Group, samples: Samples
    ) -> None:
        self.model = model.to(group.device)
        for module in model.modules():
            # Maps take the layout of the kernels; networks over clips train faster in this one. For 1x1x1
            # kernels both layouts are the same numbers in the same order, but not to DDP.
            if isinstance(module, nn.Conv3d) and max(module.kernel_size) > 1:
                module.to(memory_format=torch.channels_last_3d)
        self._shared = group.wrap(self.model)
        self._task = task
        self._recipe = recipe
        self._group = group
        self._samples = samples
        self._optimizer = build_optimizer(recipe, self.model)
        self._scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "fp16")

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, apart from its position."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])

    def step(
        self, parts: Iterator[Part], *, step: int, place: str, lr: float, stop: StopRequest
    ) -> StepReport:
        """Take one optimiser step on the next ``accumulate`` parts.

        Args:
            parts: Pairs of a collated batch and the indices of its samples.
            step: Steps done before this one, in the whole run.
            place: What errors call this step.
            lr: Learning rate of this step.
            stop: Whether this rank was asked to stop.

        Raises:
            NonFiniteLossError: The loss, or without a gradient scaler the gradient, is not finite on some
                rank. Every rank raises, and none has changed its weights.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        logs, indices = self._backward(parts, step)
        self._scaler.unscale_(self._optimizer)
        parameters = [each for each in self.model.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        # One exchange a step tells every rank how all of them fared: they stop together or not at all.
        found = torch.stack([norm.double(), *logs.values()])
        rows = self._group.gather(torch.cat([found.new_tensor([stop.signal_number]), found]))
        self._check_finite(rows, indices, place)
        if self._recipe.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self._recipe.clip_norm, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)][2:]
        return StepReport(dict(zip(logs, means, strict=True)), int(max(row[0] for row in rows)))

    def average_norms(self, parts: Iterable[Part], *, seed: int) -> None:
        """Give batch normalisation the mean statistics of some batches, in place of running ones.

        Args:
            parts: What :meth:`step` takes.
            seed: Of dropout, so that the figures depend on nothing else.
        """
        torch.manual_seed(seed)
        device = self._group.device
        with autocast_for(self._recipe.precision, device):
            update_bn((batch[0] for batch, _ in parts), self.model, device)

    def _backward(self, parts: Iterator[Part], step: int) -> tuple[dict[str, Tensor], list[int]]:
        """Leave the whole batch's mean gradient; return this rank's mean logs and its samples."""
        self._optimizer.zero_grad()
        self._shared.train()
        accumulate, device = self._recipe.accumulate, self._group.device
        totals: dict[str, Tensor] = {}
        indices: list[int] = []
        for number in range(accumulate):
            batch, part_indices = next(parts)
            indices += part_indices.tolist()
            # Dropout's numbers follow from the position alone: there is no generator state to save, and how
            # the batch was read cannot shift them. Hence the seed comes after the batch.
            torch.manual_seed(mix(self._recipe.seed, "model", step, number, self._group.rank))
            # Ranks exchange gradients once a step, with the last part.
            last = number == accumulate - 1
            with nullcontext() if last else without_sync(self._shared):
                with autocast_for(self._recipe.precision, device):
                    loss, logs = self._task.loss(
                        self._shared, [each.to(device, non_blocking=True) for each in batch]
                    )
                self._scaler.scale(loss / accumulate).backward()
            for name, value in {"loss": loss, **logs}.items():
                share = value.detach().double() / accumulate
                totals[name] = totals[name] + share if name in totals else share
        return totals, indices

    def _check_finite(self, rows: list[list[float]], indices: list[int], place: str) -> None:
        losses = [row[2] for row in rows]
        what = "loss" if not all(map(math.isfinite, losses)) else "gradient"
        # The scaler of fp16 meets overflowing gradients by skipping the step and lowering its scale.
        if what == "gradient" and (self._scaler.is_enabled() or math.isfinite(rows[0][1])):
            return
        mine = indices if what == "gradient" or not math.isfinite(losses[self._group.rank]) else []
        ids = self._group.gather_names([self._samples.sample_id(index) for index in mine])
        shown = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
        raise NonFiniteLossError(
            f"the {what} is not finite at {place}; its samples: {shown}. "
            "The last saved state is untouched: lower lr, set clip_norm, or look at these samples",
            ids,
        )
