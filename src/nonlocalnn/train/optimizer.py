"""The optimiser of a recipe, and its learning rate at each step."""

import math
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from nonlocalnn.surgery.finetune import param_groups, slow_embeddings
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.tasks.settings import OptimizerSettings

# Of the schedule "poly", as segmentation networks are trained with.
_POWER = 0.9


def build_optimizer(settings: OptimizerSettings, model: nn.Module) -> Optimizer:
    """Return the optimiser that ``settings`` ask for, over the parameters of ``model``.

    Each group has "times_lr", its share of the learning rate, beside PyTorch's settings.
    """
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": 1.0}]
    if not settings.decay_norms:
        groups = param_groups(model, lr=1.0, weight_decay=settings.weight_decay)
    groups = slow_embeddings(groups, model, settings.embeddings_lr)
    # In times the learning rate so far; the rate itself is another in every step.
    parameters = [{**group, "times_lr": group["lr"], "lr": settings.lr} for group in groups]
    if settings.optimizer == "sgd":
        momentum = 0.9 if settings.momentum is None else settings.momentum
        return SGD(
            parameters,
            lr=settings.lr,
            momentum=momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    kind = AdamW if settings.optimizer == "adamw" else Adam
    return kind(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def learning_rate(recipe: Recipe, step: int, *, steps_per_epoch: int) -> float:
    """Return the learning rate of a step.

    It follows from the step alone, so a resumed run has no schedule to restore.

    Args:
        recipe: The run's recipe.
        step: Optimiser steps done before this one, in the whole run.
        steps_per_epoch: Optimiser steps in one epoch.

    Example:
        >>> recipe = Recipe(lr=1.0, schedule="step", milestones=(2,), epochs=4, warmup_epochs=1)
        >>> [learning_rate(recipe, step, steps_per_epoch=2) for step in range(6)]
        [0.5, 1.0, 1.0, 1.0, 0.1, 0.1]
    """
    lr = recipe.scaled_lr
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    if step + 1 < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if recipe.schedule in ("cosine", "poly"):
        # At step + 1 == warmup_steps the top is reached just before the fall begins.
        done = max(0.0, step - warmup_steps) / (recipe.num_steps(steps_per_epoch) - warmup_steps)
        if recipe.schedule == "poly":
            return lr * (1 - done) ** _POWER
        return lr * 0.5 * (1 + math.cos(math.pi * done))
    if recipe.schedule == "step":
        gamma = 0.1 if recipe.gamma is None else recipe.gamma
        unit = steps_per_epoch if recipe.iterations is None else 1
        drops = sum(milestone * unit <= step for milestone in recipe.milestones)
        return lr * gamma**drops
    return lr
