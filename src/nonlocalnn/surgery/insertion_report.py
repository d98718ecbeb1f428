"""What was inserted, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional.norms import name_of
from nonlocalnn.models.cost import cost


@dataclass(frozen=True)
class InsertedBlock:
    r"""One block that was put into a network.

    Args:
        site: The module that it follows, as in ``model.named_modules()``.
        name: The block itself; its state-dict keys begin with it.
        instantiation: Its pairwise function.
        in_channels: Channels of the map.
        inter_channels: Channels of theta and phi.
        norm: What follows W_z: "batch", "group", "layer", None, or the class that a function made.
        num_parameters: Parameters that it adds.
        input_shape: The map at the example's size, (B, C, \*sides); None without an example. Where the site
            runs several times, the first.
        num_queries: N, positions of that map that see each other; None without an example.
        num_keys: M, the same after sub-sampling.
        flops: 2 x multiply-adds added to one forward pass of the example, over all runs of the site, as
            :func:`nonlocalnn.cost` counts them; None without an example.
    """

    site: str
    name: str
    instantiation: str
    in_channels: int
    inter_channels: int
    norm: str | None
    num_parameters: int
    input_shape: tuple[int, ...] | None
    num_queries: int | None
    num_keys: int | None
    flops: int | None


@dataclass(frozen=True)
class InsertionReport:
    """All blocks that one call put into a network; ``str`` is a table.

    Args:
        blocks: In the network's order.
        num_parameters: Parameters added.
        flops: FLOPs added to one forward pass of the example; None without an example.
    """

    blocks: tuple[InsertedBlock, ...]
    num_parameters: int
    flops: int | None

    def __str__(self) -> str:
        head = ("after", "block", "input", "N", "M", "channels", "inner", "norm", "parameters", "MFLOPs")
        rows = [
            (
                block.site,
                f"{block.name} ({block.instantiation})",
                "-" if block.input_shape is None else "x".join(map(str, block.input_shape)),
                _count(block.num_queries),
                _count(block.num_keys),
                _count(block.in_channels),
                _count(block.inter_channels),
                str(block.norm).lower(),
                _count(block.num_parameters),
                _millions(block.flops),
            )
            for block in self.blocks
        ]
        rows.append(("added", "", "", "", "", "", "", "", _count(self.num_parameters), _millions(self.flops)))
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place < 3 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in (head, *rows)
        ]
        # Easily overlooked of a small example, and such a block learns nothing that a layer would not.
        lines += [
            f"{block.name} sees a single key, and has nothing to choose from: take an earlier site, a larger "
            "example or sub_sample=None"
            for block in self.blocks
            if block.num_keys == 1
        ]
        return "\n".join(lines)


def describe(site: str, name: str, block: NonLocalNd, shapes: Sequence[tuple[int, ...]]) -> InsertedBlock:
    """Return the entry of a block that gets maps of these shapes in one run; none are known without one.

    Raises:
        ValueError: The block refuses such a map.
    """
    runs = [cost(block, shape).blocks[0] for shape in shapes]
    return InsertedBlock(
        site=site,
        name=name,
        instantiation=block.instantiation,
        in_channels=block.in_channels,
        inter_channels=block.inter_channels,
        norm=name_of(block.norm),
        num_parameters=sum(parameter.numel() for parameter in block.parameters()),
        input_shape=runs[0].input_shape if runs else None,
        num_queries=runs[0].num_queries if runs else None,
        num_keys=runs[0].num_keys if runs else None,
        flops=sum(run.flops for run in runs) if runs else None,
    )


def summarize(blocks: Sequence[InsertedBlock]) -> InsertionReport:
    """Return the report over all inserted blocks."""
    flops = [block.flops for block in blocks if block.flops is not None]
    return InsertionReport(
        blocks=tuple(blocks),
        num_parameters=sum(block.num_parameters for block in blocks),
        flops=sum(flops) if len(flops) == len(blocks) else None,
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _millions(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e6:,.3f}"
