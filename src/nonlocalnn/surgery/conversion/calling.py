"""A block in the place of a module that its owner calls with more than a map."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn.blocks import NonLocalNd

# Values of other types may not compare to a truth.
_PLAIN = (bool, int, float, str)


def _asks_for_nothing(value: object, default: object) -> bool:
    """Return whether a value leaves the other module's forward as it was compared with the block."""
    if value is None or (value is False and default is not True):
        return True
    return isinstance(value, _PLAIN) and type(value) is type(default) and value == default


class CalledAs(nn.Module):
    r"""Call a block by another module's signature, and pass over arguments that did nothing in that module.

    Shape:
        - Input: (B, in_channels, \*sides), what the block takes.
        - Output: the same.

    Args:
        block: What computes.
        names: The arguments of the other module's ``forward``, the map first.
        ignored: Those which did not change what it returned.
        defaults: Numbers, words and switches that an argument has where it is not given.

    Example:
        >>> import nonlocalnn as nl
        >>> attention = CalledAs(nl.NonLocal1d(8), ("hidden_states", "mask"), ("temb",))
        >>> attention(torch.randn(2, 8, 5), temb=torch.randn(2, 3)).shape
        torch.Size([2, 8, 5])
    """

    def __init__(
        self,
        block: NonLocalNd,
        names: Sequence[str],
        ignored: Sequence[str],
        defaults: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.block = block
        self.names, self.ignored, self.defaults = tuple(names), tuple(ignored), dict(defaults or {})

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
        refused = [
            name
            for name, value in given.items()
            if name not in self.ignored and not _asks_for_nothing(value, self.defaults.get(name))
        ]
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


class SwitchedOff:
    """Take another module's switches out of a block's call, or say that the block has none.

    A hook, and not a module round the block: that would rename the block's keys, and hardly anybody turns
    such a switch. Without it ``block(x, True)`` would take the switch for a context.

    Args:
        names: The arguments of the other module's ``forward``, the map first.
        defaults: The switches among them, as they were when the block was compared with that module.
    """

    def __init__(self, names: Sequence[str], defaults: Mapping[str, bool]) -> None:
        self.names, self.defaults = tuple(names), dict(defaults)

    def __call__(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the other arguments.

        Raises:
            ValueError: A switch is turned.
        """
        named = dict(zip(self.names, args, strict=False))
        # A map in a switch's place is the block's own context. 0 and 1 are switches too.
        given = {name: value for name, value in named.items() if isinstance(value, int)}
        given |= {name: value for name, value in kwargs.items() if name in self.defaults}
        turned = [
            name for name, value in given.items() if not _asks_for_nothing(value, self.defaults.get(name))
        ]
        if turned:
            switches = ", ".join(f"{name}={given[name]!r}" for name in turned)
            raise ValueError(
                f"the {type(block).__name__} that was put here has no switch {', '.join(turned)}; got "
                f"{switches}: call it without, or leave this module out of the conversion"
            )
        maps = (value for name, value in named.items() if name not in given)
        rest = {name: value for name, value in kwargs.items() if name not in given}
        return (*maps, *args[len(named) :]), rest


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
    defaults = {each.name: each.default for each in parameters[1:] if isinstance(each.default, _PLAIN)}
    # A switch, as for returning the map too, is no reason for other keys. The second argument of our block is
    # a context, and what the other module took there must not become one.
    if all(isinstance(each.default, bool) for each in parameters[1:]):
        if defaults:
            switched_off = SwitchedOff(names, {name: bool(value) for name, value in defaults.items()})
            block.register_forward_pre_hook(switched_off, with_kwargs=True)
        return block
    more = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    # diffusers' mid blocks pass the embedding of the time on to whatever attention they hold.
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        more.append("temb")
    ignored = [name for name in (*names[1:], *more) if _have_no_effect([name], probe, x)]
    # One may matter only where another is given too.
    if not _have_no_effect(ignored, probe, x):
        ignored = []
    return CalledAs(block, names, ignored, defaults)


@torch.no_grad()
def _have_no_effect(names: Sequence[str], probe: nn.Module, x: Tensor) -> bool:
    """Return whether a module neither looks at what these names give it, nor returns something else."""
    looks = []

    class Watched(Tensor):
        """A tensor that tells when its shape, its type or anything else of it is asked for."""

        # A width, a rank or a word that the module looks for cannot be guessed; that it looks can be seen.
        @classmethod
        def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
            looks.append(True)
            raise RuntimeError("an argument is looked at")

    probe.eval()
    # What asks for the class alone is not seen, so other classes are tried.
    things = (torch.zeros(2, 13).as_subclass(Watched), 2, 2.0, True, False, "anything")
    try:
        expected = probe(x.clone())
        outputs = [probe(x.clone(), **dict.fromkeys(names, thing)) for thing in things]
    except Exception:
        return False
    return not looks and all(torch.equal(output, expected) for output in outputs)
