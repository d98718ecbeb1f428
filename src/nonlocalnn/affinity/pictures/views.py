"""What pictures show beside one another: the weights of one query, or those of many in the mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nonlocalnn.affinity.grids import Sides
from nonlocalnn.functional import Instantiation

_MEANINGS: dict[Instantiation, str] = {
    "gaussian": "share of the attention (a row sums to 1)",
    "embedded_gaussian": "share of the attention (a row sums to 1)",
    "dot_product": "signed weight, dot product / number of keys",
    "concatenation": "weight, ReLU / number of keys",
}


def meaning(instantiation: Instantiation) -> str:
    """Return what a weight is, in words.

    Example:
        >>> meaning("gaussian")
        'share of the attention (a row sums to 1)'
    """
    return _MEANINGS[instantiation]


@dataclass(frozen=True, eq=False)
class View:
    r"""Weights of keys, and whose they are.

    Args:
        weights: (\*key sides).
        signed: Whether they can be negative.
        even: The size that each would have if they were all alike.
        least: The size from which one stands out.
        label: What a weight is.
        query: Whose weights these are; None for a mean.
        number: What the query is called.
        top: The keys that stand out, at most five: weight and place.
    """

    weights: Tensor
    signed: bool
    even: float
    least: float
    label: str
    query: Sides | None = None
    number: str = ""
    top: Sequence[tuple[float, Sides]] = ()
