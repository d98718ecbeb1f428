"""What a run chooses by the number of its training samples, where its recipe leaves that open.

Both choices exist because of small data. With few optimiser steps in an epoch the running statistics of batch
normalisation lag behind the weights, and half-trained networks score like chance in validation while their
training loss is near zero.
"""

from dataclasses import replace

from nonlocalnn._names import MASK_SETS, OBJECT_SETS, STEP_SETS, VOLUME_MASK_SETS
from nonlocalnn.tasks.recipe import Recipe

# An epoch of fewer optimiser steps is short.
_FEW_STEPS = 100
# Over how many samples the statistics of norms are averaged: these give a mean to some 6 % of a deviation.
_SAMPLES_FOR_NORMS = 256
_LARGEST_BATCH, _SMALLEST_BATCH, _STEPS_WANTED = 64, 8, 10
# Of images with masks or objects, each of which is many samples: as published recipes have, and fewer. Of
# volumes a sample has as many voxels as many images have pixels.
_BATCHES = {
    **dict.fromkeys((*MASK_SETS, *OBJECT_SETS), (16, 2)),
    "volumes": (16, 4),
    **dict.fromkeys(VOLUME_MASK_SETS, (4, 2)),
    **dict.fromkeys(STEP_SETS, (16, 2)),
}


def fitted_recipe(recipe: Recipe, num_samples: int, world_size: int = 1) -> Recipe:
    """Return a recipe with a batch size and a number of norm batches where it leaves them open.

    The batch is the largest power of two up to 64 with which an epoch has at least 10 steps, and at least 8,
    or what the ranks and accumulated parts need to share it; of images with masks or objects, and of labelled
    steps, up to 16 and at least 2, of volumes up to 16 and at least 4, and of volumes with masks up to 4 and
    at least 2. Where an epoch has fewer than 100 steps, the statistics of batch normalisation are averaged
    anew over 256 samples, or all where there are fewer.

    Args:
        recipe: The recipe.
        num_samples: Of the training data.
        world_size: Ranks that share a batch.

    Example:
        >>> few = fitted_recipe(Recipe(), num_samples=160)
        >>> few.batch_size, few.norm_batches
        (16, 10)
        >>> many = fitted_recipe(Recipe(), num_samples=55000)
        >>> many.batch_size, many.norm_batches
        (64, 0)
    """
    batch_size = recipe.batch_size
    if batch_size is None:
        batch_size, smallest = _BATCHES.get(recipe.data, (_LARGEST_BATCH, _SMALLEST_BATCH))
        while batch_size > smallest and batch_size * _STEPS_WANTED > num_samples:
            batch_size //= 2
        shared = recipe.accumulate * world_size
        batch_size = max(shared, min(batch_size, num_samples) // shared * shared)
    steps = num_samples // batch_size
    norm_batches = recipe.norm_batches
    if norm_batches is None:
        norm_batches = min(steps, -(-_SAMPLES_FOR_NORMS // batch_size)) if steps < _FEW_STEPS else 0
    return replace(recipe, batch_size=batch_size, norm_batches=norm_batches)
