"""How deep the residual networks are, and which of their bottlenecks non-local blocks follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nonlocalnn._errors import check_choice

STAGES = ("layer1", "layer2", "layer3", "layer4")
# Which bottlenecks of a stage are followed by a block, by the name of the stage.
Placement = Mapping[str, Sequence[int]]

_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_LONGEST = 256  # bottlenecks of a stage
# The paper puts one block right before the last bottleneck of res4, five into res3 and res4 after every
# second one (every seventh of res4 at depth 101), ten after every one. Which ten at depth 101 it does not
# say: every fourth of res4, as gluon-cv chose, makes ten.
_PLACEMENTS: dict[tuple[int, int], Placement] = {
    (50, 1): {"layer3": (4,)},
    (50, 5): {"layer2": (1, 3), "layer3": (1, 3, 5)},
    (50, 10): {"layer2": (0, 1, 2, 3), "layer3": (0, 1, 2, 3, 4, 5)},
    (101, 1): {"layer3": (21,)},
    (101, 5): {"layer2": (1, 3), "layer3": (6, 13, 20)},
    (101, 10): {"layer2": (0, 1, 2, 3), "layer3": (2, 6, 10, 14, 18, 22)},
}


def stage_lengths(depth: int | Sequence[int]) -> tuple[int, ...]:
    """Return the number of bottlenecks of each stage.

    Raises:
        ValueError: ``depth`` is neither known nor four whole numbers of at least 1.
    """
    if isinstance(depth, int):
        if depth not in _DEPTHS:
            raise ValueError(f"depth must be 50, 101 or the lengths of four stages; got {depth}")
        return _DEPTHS[depth]
    lengths = tuple(depth)
    # A file may ask for any number, and even without memory each bottleneck takes a millisecond.
    if len(lengths) != 4 or not all(isinstance(each, int) and 1 <= each <= _LONGEST for each in lengths):
        raise ValueError(
            f"depth must be 50, 101 or four lengths of at least 1 and at most {_LONGEST}; "
            f"got {repr(lengths)[:80]}"
        )
    return lengths


def block_places(
    blocks: int | Placement, depth: int | Sequence[int], lengths: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """Return the bottlenecks that blocks follow, for each stage.

    Raises:
        ValueError: The number of blocks has no places at this depth, or a place does not exist.
    """
    if isinstance(blocks, int):
        if blocks and (not isinstance(depth, int) or (depth, blocks) not in _PLACEMENTS):
            raise ValueError(
                "blocks must be 0, or 1, 5 or 10 at depth 50 or 101, or the places, "
                f'as in {{"layer2": [1, 3]}}; got {blocks} at depth {depth}'
            )
        chosen: Placement = _PLACEMENTS[depth, blocks] if blocks and isinstance(depth, int) else {}
    else:
        if not isinstance(blocks, Mapping):
            raise ValueError(
                f'blocks must be a number or places, as in {{"layer2": [1, 3]}}; got {blocks!r:.80}'
            )
        chosen = blocks
    for name, places in chosen.items():
        check_choice("stage", name, STAGES)
        length = lengths[STAGES.index(name)]
        if len(set(places)) != len(places) or not all(place in range(length) for place in places):
            raise ValueError(
                f"{name} has bottlenecks 0 to {length - 1}, each with at most one block; got {list(places)}"
            )
    return {name: tuple(chosen.get(name, ())) for name in STAGES}
