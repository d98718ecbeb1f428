"""Blocks of any settings on maps of any kind: right by the slow block in float64, or a ValueError of ours."""

from dataclasses import dataclass
from typing import Any

import torch
from fuzz_outcome import outcome_of
from hypothesis import strategies as st

from helpers import BLOCKS, randomize_, slow_block
from nonlocalnn.functional import INSTANTIATIONS, SOFTMAX_INSTANTIATIONS
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
)
WRONG_INPUTS = ("rank", "channels", "integers", "complex", "float8", "no side", "frames")


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
    wrong_setting: tuple[str, Any] | None
    wrong_input: str | None


@st.composite
def blocks(draw):
    num_sides = draw(st.sampled_from((1, 2, 3)))
    instantiation = draw(st.sampled_from(INSTANTIATIONS))
    extent = draw(st.sampled_from(EXTENTS)) if num_sides == 3 else "spacetime"
    dtype = draw(st.sampled_from(DTYPES))
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
    return Block(
        num_sides=num_sides,
        settings={
            "in_channels": draw(st.sampled_from((1, 2, 3, 8))),
            "inter_channels": draw(st.sampled_from((None, 1, 2, 5))),
            "instantiation": instantiation,
            "sub_sample": draw(st.sampled_from(SUB_SAMPLES)),
            "use_scale": instantiation in SOFTMAX_INSTANTIATIONS and draw(st.booleans()),
            "norm": draw(st.sampled_from(("batch", None))),
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
        # PyTorch refuses statistics of one number, or of none.
        is_few = case.train and block.norm is not None and x.numel() // max(1, x.shape[1]) < 2
        try:
            outcome, z = outcome_of(lambda: block(x), ValueError, anywhere=is_few)
        except RuntimeError as error:
            # So it does a map of another type than the norm's; without one, such a map is computed as it is.
            is_mixed = case.train and block.norm is not None and case.input_dtype != case.dtype
            if not (is_mixed and "mixed dtype" in str(error)):
                raise
            return "refused by PyTorch"
    if outcome == "refused":
        assert is_few or case.wrong_input is not None, f"a right map is refused: {z}"
        return outcome
    assert case.wrong_input is None, "a wrong map is answered"
    assert z.shape == x.shape
    assert z.dtype == x.dtype
    return _compare(case, block, x, z)


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
