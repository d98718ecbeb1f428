"""Blocks of any settings on maps of any kind: right by the slow block in float64, or a ValueError of ours."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from fuzz_outcome import outcome_of
from hypothesis import strategies as st
from torch import nn

from helpers import BLOCKS, randomize_, slow_block
from nonlocalnn.functional import INSTANTIATIONS, SOFTMAX_INSTANTIATIONS
from slow_block import padded_block
from tolerances import NETWORK, assert_near

SUB_SAMPLES = ("after", "before", None)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EXTENTS = ("spacetime", "space", "time", 1, 2, 3)
LAYOUTS = ("contiguous", "channels last", "transposed", "expanded", "strided")
# What is wrong with a setting, and with an input.
WRONG_SETTINGS = (
    ("in_channels", (0, -1, 2.0, "8", None)),
    ("inter_channels", (0, -3, 1.5, "4", 10**12, 10**40)),
    ("instantiation", ("softmax", None, 3, ["gaussian"])),
    ("sub_sample", ("during", 2, True, ["after"])),
    ("norm", ("instance", False, 1)),
    ("extent", (0, -2, "frames", None, True, 2.0, [2])),
    ("use_scale", ("yes", 0.5, None)),
    ("zero_init", ("yes", None)),
    ("num_heads", (0, -1, 2.0, "2", None, True, 10**30)),
    ("value_channels", (0, -1, 2.0, "4", True, 10**30)),
    ("context_channels", (0, -1, 2.0, "4", True)),
    ("pool_size", (0, "2", (), (1, 1, 1, 1), (0, 2), 2.0, [None], {2})),
    ("pre_norm", ("instance", False, 1, ["batch"])),
)
WRONG_INPUTS = ("rank", "channels", "integers", "complex", "float8", "no side", "frames")
WRONG_MASKS = ("a number", "numbers", "sides", "batch", "list")
WRONG_CONTEXTS = ("rank", "channels", "batch", "no side", "type", "missing")
# With these the slow block of the first settings compares.
USUAL = {
    "num_heads": 1,
    "value_channels": None,
    "context_channels": None,
    "pool_size": None,
    "pre_norm": None,
}
NORMS = ("batch", "batch", None, None, "group", "layer")


@dataclass(frozen=True)
class Block:
    """A block, and a map for it."""

    num_sides: int
    settings: dict[str, Any]
    batch: int
    sides: tuple[int, ...]
    dtype: torch.dtype
    input_dtype: torch.dtype
    layout: str
    train: bool
    autocast: bool
    seed: int
    mask: str | None
    context_sides: tuple[int, ...] | None
    wrong_setting: tuple[str, Any] | None
    wrong_input: str | None
    wrong_mask: str | None
    wrong_context: str | None


@st.composite
def blocks(draw):
    num_sides = draw(st.sampled_from((1, 2, 3)))
    instantiation = draw(st.sampled_from(INSTANTIATIONS))
    extent = draw(st.sampled_from(EXTENTS)) if num_sides == 3 else "spacetime"
    # Only float64 is compared number by number.
    dtype = draw(st.sampled_from((*DTYPES, *[torch.float64] * 4)))
    sides = [draw(st.sampled_from((1, 2, 3, 5, 7))) for _ in range(num_sides)]
    if isinstance(extent, int):
        sides[0] = extent * draw(st.sampled_from((1, 2)))
    fault = draw(st.integers(0, 7))
    wrong_setting = wrong_input = None
    if fault == 0:
        name, values = draw(st.sampled_from(WRONG_SETTINGS))
        wrong_setting = (name, draw(st.sampled_from(values)))
    elif fault == 1:
        wrong_input = draw(st.sampled_from(WRONG_INPUTS if isinstance(extent, int) else WRONG_INPUTS[:-1]))
    num_heads = draw(st.sampled_from((1, 1, 1, 2, 3)))
    channels = num_heads * draw(st.sampled_from((1, 2, 3, 8)))
    inner = draw(st.sampled_from((None, 1, 2, 5)))
    values = draw(st.sampled_from((None, None, 1, 4)))
    sub_sample = draw(st.sampled_from(SUB_SAMPLES))
    is_gaussian = instantiation == "gaussian"
    other = draw(st.sampled_from((None, None, None, channels if is_gaussian else 3)))
    context_sides = None if other is None and draw(st.integers(0, 4)) else _context_sides(draw, sides, extent)
    mask = draw(st.sampled_from((None, None, "some", "all", "none of a sample", "sizes")))
    wrong_mask = draw(st.sampled_from(WRONG_MASKS)) if fault == 2 else None
    wrong_context = (
        draw(st.sampled_from(WRONG_CONTEXTS)) if fault == 3 and context_sides is not None else None
    )
    if wrong_context == "missing" and other is None:
        wrong_context = "batch"
    return Block(
        num_sides=num_sides,
        mask=mask,
        context_sides=context_sides,
        wrong_mask=wrong_mask,
        wrong_context=wrong_context,
        settings={
            "in_channels": channels,
            "inter_channels": None if inner is None else inner * num_heads,
            "value_channels": None if values is None or is_gaussian else values * num_heads,
            "context_channels": other,
            "num_heads": num_heads,
            "pool_size": _pool_size(draw, num_sides, extent) if sub_sample is not None else None,
            "pre_norm": draw(st.sampled_from((None, None, *NORMS))),
            "instantiation": instantiation,
            "sub_sample": sub_sample,
            "use_scale": instantiation in SOFTMAX_INSTANTIATIONS and draw(st.booleans()),
            "norm": draw(st.sampled_from(NORMS)),
            "zero_init": draw(st.booleans()),
            "extent": extent,
        },
        batch=draw(st.sampled_from((0, 1, 2, 3))),
        sides=tuple(sides),
        dtype=dtype,
        input_dtype=draw(st.sampled_from(DTYPES)) if draw(st.integers(0, 5)) == 0 else dtype,
        layout=draw(st.sampled_from(LAYOUTS)),
        train=draw(st.booleans()),
        autocast=dtype == torch.float32 and draw(st.integers(0, 5)) == 0,
        seed=draw(st.integers(0, 999)),
        wrong_setting=wrong_setting,
        wrong_input=wrong_input,
    )


def _pool_size(draw, num_sides, extent):
    if draw(st.integers(0, 2)):
        return None
    size = [draw(st.sampled_from((1, 2, 3))) for _ in range(num_sides)]
    for axis in {"spacetime": (), "time": (1, 2)}.get(extent, (0,)):
        size[axis] = 1
    if set(size) == {1}:
        size[0 if extent in ("spacetime", "time") else 1] = 2
    return tuple(size)


def _context_sides(draw, sides, extent):
    """Return sides of any length where the groups do not tell them."""
    found = [draw(st.sampled_from((1, 2, 4, 5))) for _ in sides]
    for axis in {"spacetime": (), "time": (1, 2)}.get(extent, (0,)):
        found[axis] = sides[axis]
    return tuple(found)


def _context_and_mask(case, x):
    """Return a context or None and a mask or None, wrong where that is asked for."""
    context, batch = None, x.shape[0]
    if case.context_sides is not None and case.wrong_context != "missing":
        width = case.settings["context_channels"] or case.settings["in_channels"]
        width += case.wrong_context == "channels"
        batch_size = batch + (case.wrong_context == "batch")
        sides = (*case.context_sides, *([2] if case.wrong_context == "rank" else []))
        sides = (0, *sides[1:]) if case.wrong_context == "no side" else sides
        other = torch.float32 if x.dtype == torch.float64 else torch.float64
        context = torch.randn(batch_size, width, *sides).to(
            other if case.wrong_context == "type" else x.dtype
        )
    sides = x.shape[2:] if context is None else context.shape[2:]
    mask = torch.ones(batch, *sides, dtype=torch.bool)
    if case.mask == "some":
        mask = torch.rand(mask.shape) > 0.3
    elif case.mask == "none of a sample":
        mask[: max(1, batch // 2)] = False
    elif case.mask == "sizes":
        for sample in range(batch):
            cut = tuple(slice(1 + (case.seed + sample) % side) for side in sides)
            mask[sample] = False
            mask[(sample, *cut)] = True
    given = None if case.mask is None else mask
    wrong = {
        "a number": 1,
        "numbers": mask.float(),
        "sides": mask.unsqueeze(-1),
        "batch": torch.cat([mask, mask, mask[:0].new_ones(1, *sides)]),
        "list": mask.tolist(),
    }
    return context, wrong[case.wrong_mask] if case.wrong_mask is not None else given


def check_block(case, folder=None):
    """Return what came of a block; AssertionError, or whatever else leaves the library, is a finding."""
    torch.manual_seed(case.seed)
    settings = dict(case.settings)
    if case.wrong_setting is not None:
        name, value = case.wrong_setting
        settings[name] = value
    channels = settings.pop("in_channels")
    build = BLOCKS[case.num_sides]
    outcome, block = outcome_of(lambda: build(channels, **settings), (ValueError, TypeError))
    if case.wrong_setting is not None:
        assert outcome == "refused", f"{case.wrong_setting} is accepted"
    if outcome == "refused":
        assert case.wrong_setting is not None, f"right settings are refused: {block}"
        return outcome
    block = randomize_(block.to(case.dtype)).train(case.train)
    x = _map(case)
    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        context, mask = _context_and_mask(case, x)
        # PyTorch refuses statistics of one number, or of none.
        maps = [x] if context is None else [x, context]
        is_few = case.train and any(each.numel() // max(1, each.shape[1]) < 2 for each in maps)
        is_few |= case.batch == 1 and any(_is_single(block, each.shape[2:]) for each in maps)
        try:
            outcome, z = outcome_of(lambda: block(x, context, key_mask=mask), ValueError, anywhere=is_few)
        except RuntimeError as error:
            # So it does a map of another type than the norm's; without one, such a map is computed as it is.
            # A norm before the projections meets the map's own type in eval mode, too.
            has_norm = block.pre_norm is not None or (block.norm is not None and case.train)
            is_mixed = has_norm or case.settings["norm"] in ("group", "layer")
            if not (is_mixed and case.input_dtype != case.dtype and "dtype" in str(error) + "type"):
                raise
            return "refused by PyTorch"
    if outcome == "refused":
        wrong = (case.wrong_input, case.wrong_mask, case.wrong_context)
        assert is_few or wrong != (None, None, None), f"a right map is refused: {z}"
        return outcome
    assert case.wrong_input is None, "a wrong map is answered"
    assert case.wrong_mask is None, "a wrong mask is answered"
    assert case.wrong_context is None, "a wrong context is answered"
    assert z.shape == x.shape
    assert z.dtype == x.dtype
    if any(case.settings[name] != usual for name, usual in USUAL.items()) or case.mask is not None:
        return _compare_masked(case, block, x, context, mask, z)
    return "answered" if context is not None else _compare(case, block, x, z)


def _map(case):
    channels, sides = case.settings["in_channels"], case.sides
    if case.wrong_input == "channels":
        channels += 1
    elif case.wrong_input == "no side":
        sides = (*sides[:-1], 0)
    elif case.wrong_input == "frames":
        sides = (
            (case.settings["extent"] * 2 + 1, *sides[1:]) if case.settings["extent"] > 1 else (0, *sides[1:])
        )
    elif case.wrong_input == "rank":
        sides = sides[1:] if case.seed % 2 else (*sides, 2)
    shape = (case.batch, channels, *sides)
    if case.layout == "expanded":
        x = torch.randn(case.batch, channels, *[1] * len(sides)).expand(shape)
    elif case.layout == "strided":
        x = torch.randn(case.batch, 2 * channels, *sides)[:, ::2]
    elif case.layout == "transposed":
        x = torch.randn(*shape[::-1]).permute(*range(len(shape))[::-1])
    else:
        x = torch.randn(shape)
        if case.layout == "channels last" and x.dim() in (4, 5):
            x = x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    wrong = {"integers": torch.int64, "complex": torch.complex64, "float8": torch.float8_e5m2}
    return x.to(wrong.get(case.wrong_input, case.input_dtype))


def _is_single(block, sides):
    """Return whether a group norm sees a single number of a sample, which PyTorch refuses of one sample."""
    norms = (block.norm, block.pre_norm, block.context_norm)
    groups = [norm.num_channels // norm.num_groups for norm in norms if isinstance(norm, nn.GroupNorm)]
    return 1 in groups and math.prod(sides) == 1


def _compare_masked(case, block, x, context, mask, z):
    """Compare with the block that loops over cropped samples, where sizes say all of the mask."""
    is_exact = case.dtype == case.input_dtype == torch.float64 and case.batch > 0 and not case.autocast
    adds_up = case.train and "batch" in (case.settings["norm"], case.settings["pre_norm"])
    # Masks of any shape are no cropped samples.
    if not is_exact or adds_up or case.mask in ("some", "none of a sample"):
        return "answered"
    sizes = None
    if mask is not None:
        sizes = [[int(axis.max()) + 1 for axis in sample.nonzero(as_tuple=True)] for sample in mask]
    extent = case.settings["extent"]
    if sizes is not None and isinstance(extent, int) and any(size[0] % extent for size in sizes):
        return "answered"  # a cropped clip would not fill its groups
    if context is not None and sizes is not None and extent != "spacetime":
        return "answered"  # a cropped context would have other groups than x
    own, keys = (sizes, None) if context is None else (None, sizes)
    alone = [*(sizes or []), x.shape[2:], *([] if context is None else [context.shape[2:]])]
    if any(_is_single(block, each) for each in alone):
        return "answered"
    exact = padded_block(block, x, context, own, keys)
    where = exact.isfinite()
    assert_near(z[where], exact[where], sums=10 * NETWORK)
    return "right"


def _compare(case, block, x, z):
    extent = case.settings["extent"]
    if (
        case.batch == 0
        or case.autocast
        or extent == "time"
        or case.dtype != torch.float64
        or x.dtype != torch.float64
    ):
        # Of low precision the layers' own rounding is tested elsewhere.
        return "answered"
    frames = x.shape[2]
    if extent != "spacetime":
        group = 1 if extent == "space" else extent
        if block.norm is not None and block.norm.training:
            return "answered"  # its statistics are over all groups
        x = x.unflatten(2, (frames // group, group)).transpose(1, 2).flatten(0, 1)
    if block.norm is not None:
        block.norm.eval()
        if case.train:
            block.norm.train()
    exact = slow_block(block, x)
    if extent != "spacetime":
        exact = exact.unflatten(0, (-1, frames // group)).transpose(1, 2).flatten(2, 3)
    assert_near(z, exact, sums=NETWORK)
    return "right"
