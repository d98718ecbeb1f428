"""A block in the place of a module that its owner calls with more than a map."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn.blocks import NonLocalNd


class CalledAs(nn.Module):
    r"""Call a block by another module's signature, and pass over arguments that did nothing in that module.

    Shape:
        - Input: (B, in_channels, \*sides), what the block takes.
        - Output: the same.

    Args:
        block: What computes.
        names: The arguments of the other module's ``forward``, the map first.
        ignored: Those which did not change what it returned.

    Example:
        >>> import nonlocalnn as nl
        >>> attention = CalledAs(nl.NonLocal1d(8), ("hidden_states", "mask"), ("temb",))
        >>> attention(torch.randn(2, 8, 5), temb=torch.randn(2, 3)).shape
        torch.Size([2, 8, 5])
    """

    def __init__(self, block: NonLocalNd, names: Sequence[str], ignored: Sequence[str]) -> None:
        super().__init__()
        self.block = block
        self.names, self.ignored = tuple(names), tuple(ignored)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the block's output for the map, the first argument.

        Raises:
            ValueError: Another argument is given, and is not one of those without effect.
            TypeError: There is no map.
        """
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        if self.names[0] not in given:
            raise TypeError(f"the map, {self.names[0]}, is missing")
        x = given.pop(self.names[0])
        # What is left at None, or off, asks for nothing.
        refused = [name for name in given if not (given[name] is None or given[name] is False)]
        refused = [name for name in refused if name not in self.ignored]
        if refused or len(args) > len(self.names):
            raise ValueError(
                "the block that was put here takes the map alone"
                + (f" and passes over {', '.join(self.ignored)}" if self.ignored else "")
                + f"; got {', '.join(refused) or f'{len(args)} arguments'} too: call its .block for a "
                "context or a mask, or leave this module out of the conversion"
            )
        out: Tensor = self.block(x)
        return out

    def extra_repr(self) -> str:
        """Name the arguments without effect."""
        return f"ignored={self.ignored!r}"


def as_called(block: NonLocalNd, module: nn.Module, probe: nn.Module, x: Tensor) -> nn.Module:
    """Return the block, or the block behind the signature of a module that takes more than a map.

    Args:
        block: What is put into the module's place.
        module: What stood there.
        probe: A copy of it, in the type of x.
        x: A map.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    names = [
        each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    # A switch, as for returning the map too, is no reason for another signature. The second argument of our
    # block is a context, and what the other module took there must not become one.
    if all(isinstance(each.default, bool) for each in parameters[1:]):
        return block
    more = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    # diffusers' mid blocks pass the embedding of the time on to whatever attention they hold.
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        more.append("temb")
    return CalledAs(block, names, [name for name in (*names[1:], *more) if _has_no_effect(name, probe, x)])


@torch.no_grad()
def _has_no_effect(name: str, probe: nn.Module, x: Tensor) -> bool:
    """Return whether a module returns the same for a map, whatever else it is given by this name."""
    probe.eval()
    # Of a size that fits nothing: what looks at it fails, or returns something else.
    something = torch.linspace(1, 2, 2 * 13, dtype=x.dtype).view(2, 13)
    try:
        return torch.equal(probe(x.clone(), **{name: something}), probe(x.clone()))
    except Exception:
        return False
