"""What to do where a state dict does not fit a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from nonlocalnn.checkpoints.shards import shard_in_words
from nonlocalnn.surgery.insertion_sites import CHILD

# What weights that are computed from others are called: by pruning and norms, by parametrizations.
_COMPUTED = ("_orig", "_g", "_v", "parametrizations.")


def advice(
    file: str, state: Mapping[str, Tensor], names: Collection[str], missing: list[str], unexpected: list[str]
) -> list[str]:
    """Return what to do, one sentence or none.

    Args:
        file: The checkpoint.
        state: All that it holds, under its own names.
        names: What the model's weights are called.
        missing: Which of them the file lacks.
        unexpected: Which of the file's the model lacks.
    """
    computed = _of_computed(missing, unexpected)
    if computed is not None:
        return [computed]
    shard = shard_in_words(file) if missing else None
    if shard is not None:
        return [shard]
    networks = _networks(state, names)
    if unexpected and len(networks) > 1:
        listed = ", ".join(repr(each) for each in networks[:8])
        return [f"it holds such networks under {listed}: give entry={networks[0]!r}, or another of them"]
    if missing and not unexpected and _are_whole_blocks(missing, names):
        return [
            "the file has no weights of these blocks: load it first, then insert them, or keep their fresh "
            "weights by import_checkpoint(file, model, allow_partial=True)"
        ]
    return []


def _are_whole_blocks(missing: list[str], names: Collection[str]) -> bool:
    """Return whether what is missing is all of some blocks, which a network has after layers of its own."""
    mark = f".{CHILD}."
    blocks = {name.partition(mark)[0] + mark for name in missing if mark in name}
    # A counter of batches is never missing.
    present = [name for name in set(names).difference(missing) if not name.endswith("num_batches_tracked")]
    return all(mark in name for name in missing) and not any(
        name.startswith(tuple(blocks)) for name in present
    )


def _networks(state: Mapping[str, Tensor], names: Collection[str]) -> list[str]:
    """Return the words before keys under which most of the names lie."""
    first = next(iter(names), "")
    prefixes = sorted(key.removesuffix(f".{first}") for key in state if key.endswith(f".{first}"))
    # Layers have children of equal names: a whole network has most of them.
    return [each for each in prefixes if 2 * sum(f"{each}.{name}" in state for name in names) > len(names)]


def _of_computed(missing: list[str], unexpected: list[str]) -> str | None:
    """Return what to do where one of both has a weight that the other computes from others."""
    for has, lacks, advised in (
        (
            unexpected,
            missing,
            "the file's weights are computed from others: prune or norm the model too",
        ),
        (
            missing,
            unexpected,
            "the model computes weights from others: load first, then prune or norm it",
        ),
    ):
        for key in has:
            plain = key.partition("parametrizations.")
            name = plain[0] + plain[2].partition(".")[0] if plain[1] else key.rpartition("_")[0]
            if name in lacks and any(mark in key for mark in _COMPUTED):
                return advised
    return None
