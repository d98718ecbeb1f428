"""A network together with what changes it, one optimiser step at a time."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from nonlocalnn._device import autocast_for, moved
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.models.layout import with_channels_last
from nonlocalnn.tasks.contract import Samples, Task
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.train.optimizer import build_optimizer
from nonlocalnn.train.order import mix
from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.parallel.layout import Replicated, Sharded, fill_, units
from nonlocalnn.train.recompute import recompute_
from nonlocalnn.train.signals import StopRequest
from nonlocalnn.train.state.checkpoint import TrainingState
from nonlocalnn.train.state.old_file import old_tensors
from nonlocalnn.train.state.resuming import read_tensors
from nonlocalnn.train.stopwatch import Stopwatch

# A batch is a sequence of tensors, or of lists and dictionaries of them, and comes with its samples' numbers.
Part = tuple[Sequence[Any], Tensor]


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
        own_seconds: Of each rank, the time until it first waited for the others.
    """

    logs: dict[str, float]
    signal_number: int
    own_seconds: list[float]


class Learner:
    """A network, its optimiser and its gradient scaler.

    Args:
        model: The network; moved to the group's device.
        task: Computes the loss.
        recipe: The run's recipe.
        group: The processes of the run.
        samples: The training data, for the names of samples in errors.

    Attributes:
        network: How the network lies on the ranks.
        model: The network; its parameters are shards where the recipe says so.
    """

    def __init__(
        self, model: nn.Module, *, task: Task[Any], recipe: Recipe, group: Group, samples: Samples
    ) -> None:
        self.network = _laid_out(model, recipe, group)
        self.model = self.network.model
        self._task = task
        self._recipe = recipe
        self._group = group
        self._samples = samples
        self._optimizer = build_optimizer(recipe, self.model)
        names: dict[Tensor, str] = {each: name for name, each in self.model.named_parameters()}
        # In the optimiser's order.
        self._parameters: dict[str, Tensor] = {
            names[each]: each for group in self._optimizer.param_groups for each in group["params"]
        }
        self._scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "fp16")

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler, as JSON values."""
        return self._scaler.state_dict()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the next step depends on by name, in shards where the network lies so."""
        named = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    named[f"optimizer.{name}.{key}"] = value
        return named

    def load(self, state: TrainingState) -> None:
        """Take over what :meth:`tensors` and :meth:`scaler_state` gave; every rank must call this.

        Raises:
            CheckpointError: The tensors cannot be read, or are another network's.
        """
        own = {f"model.{name}": value for name, value in self.model.state_dict().items()}

        def like(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
            if name in own:
                return own[name]
            owner, _, key = name.removeprefix("optimizer.").rpartition(".")
            if owner not in self._parameters:
                raise CheckpointError(f"{state.path} holds {name!r}, which the network lacks")
            # What an optimiser keeps for each number lies as the parameter does; counts of steps do not.
            value = torch.zeros_like(self._parameters[owner], dtype=dtype, requires_grad=False)
            kept = self._optimizer.state[self._parameters[owner]]
            kept[key] = torch.zeros((), dtype=dtype) if key == "step" else value
            return kept[key]

        if "model" in state.learner:
            found = old_tensors(state.learner, list(self._parameters))
            for name, value in found.items():
                fill_(like(name, value.shape, value.dtype), value)
        else:
            found = read_tensors(state.path, like, self._group)
        if lacking := own.keys() - found.keys():
            raise CheckpointError(f"{state.path} lacks {min(lacking)!r} of the network")
        self._scaler.load_state_dict(state.learner["scaler"])

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
            group["lr"] = lr * group["times_lr"]
        logs, indices, seconds = self._backward(parts, step)
        self._scaler.unscale_(self._optimizer)
        norm = self.network.gradient_norm()
        # One exchange a step tells every rank how all of them fared: they stop together or not at all.
        found = torch.stack([norm.double(), *logs.values()])
        rows = self._group.gather(torch.cat([found.new_tensor([stop.signal_number, seconds]), found]))
        signals, own_seconds, norms, *columns = zip(*rows, strict=True)
        self._check_finite(norms[0], columns[0], indices, place)
        if self._recipe.clip_norm is not None:
            parameters = [each for each in self.model.parameters() if each.grad is not None]
            nn.utils.clip_grads_with_norm_(parameters, self._recipe.clip_norm, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        means = [sum(column) / len(rows) for column in columns]
        return StepReport(dict(zip(logs, means, strict=True)), int(max(signals)), list(own_seconds))

    def average_norms(self, parts: Iterable[Part], *, seed: int) -> None:
        """Give batch normalisation the mean statistics of some batches, in place of running ones.

        Args:
            parts: What :meth:`step` takes.
            seed: Of dropout, so that the figures depend on nothing else.
        """
        torch.manual_seed(seed)
        device = self._group.device
        # The task alone knows what of a batch the network takes, and what in it is padding.
        batches = ([moved(batch, device)] for batch, _ in parts)
        with autocast_for(self._recipe.precision, device):
            update_bn(batches, _Losses(self._task, self.model).train(self.model.training))

    def _backward(self, parts: Iterator[Part], step: int) -> tuple[dict[str, Tensor], list[int], float]:
        """Leave the whole batch's mean gradient; return this rank's mean logs, samples and own seconds."""
        self._optimizer.zero_grad()
        self.network.shared.train()
        accumulate, device = self._recipe.accumulate, self._group.device
        watch = Stopwatch(device)
        totals: dict[str, Tensor] = {}
        indices: list[int] = []
        for number in range(accumulate):
            watch.start()
            batch, part_indices = next(parts)
            indices += part_indices.tolist()
            # Dropout's numbers follow from the position alone: there is no generator state to save, and how
            # the batch was read cannot shift them. Hence the seed comes after the batch.
            torch.manual_seed(mix(self._recipe.seed, "model", step, number, self._group.rank))
            last = number == accumulate - 1
            with self.network.part(last=last):
                if isinstance(self.network, Sharded):
                    watch.stop()  # the forward pass waits for the others' shards
                with autocast_for(self._recipe.precision, device):
                    loss, logs = self._task.loss(self.network.shared, moved(batch, device))
                if last:
                    watch.stop()  # the backward pass waits for the others' gradients
                self._scaler.scale(loss / accumulate).backward()
            for name, value in {"loss": loss, **logs}.items():
                share = value.detach().double() / accumulate
                totals[name] = totals[name] + share if name in totals else share
        return totals, indices, watch.seconds()

    def _check_finite(self, norm: float, losses: Sequence[float], indices: list[int], place: str) -> None:
        what = "loss" if not all(map(math.isfinite, losses)) else "gradient"
        # The scaler of fp16 meets overflowing gradients by skipping the step and lowering its scale.
        if what == "gradient" and (self._scaler.is_enabled() or math.isfinite(norm)):
            return
        mine = indices if what == "gradient" or not math.isfinite(losses[self._group.rank]) else []
        ids = self._group.gather_names([self._samples.sample_id(index) for index in mine])
        shown = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
        raise NonFiniteLossError(
            f"the {what} is not finite at {place}; its samples: {shown}. "
            "The last saved state is untouched: lower lr, set clip_norm, or look at these samples",
            ids,
        )


class _Losses(nn.Module):
    """A network that is given whole batches: what PyTorch averages norms by takes one input a call."""

    def __init__(self, task: Task[Any], model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Sequence[Any]) -> None:
        self.task.loss(self.model, batch)


def _laid_out(model: nn.Module, recipe: Recipe, group: Group) -> Replicated | Sharded:
    """Return the network on the group's device, as the recipe lays it out."""
    sharded = recipe.parallel == "fsdp"
    if not sharded:
        # FSDP takes kernels in the usual layout only, and DistributedDataParallel warns of the gradients of
        # 1x1 kernels over images in the other one.
        with_channels_last(model, of_images=not group.is_distributed)
    if recipe.activation_checkpointing:
        recompute_(units(model))
    if recipe.sync_norms and group.is_distributed:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if sharded:
        return Sharded(model, group, precision=recipe.precision)
    return Replicated(model.to(group.device), group)
