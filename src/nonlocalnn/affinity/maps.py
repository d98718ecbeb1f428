"""The affinity of one block for one run: rows of it when they are asked for, and pictures of them."""

from __future__ import annotations

from torch import Tensor

from nonlocalnn.affinity.pictures import Picture, draw_rows
from nonlocalnn.affinity.rows import AffinityRows, Query


class AffinityMap(AffinityRows):
    """The affinity of one block for one run of its model, and pictures of it.

    See :class:`~nonlocalnn.affinity.rows.AffinityRows` for what it holds and how its numbers are read.
    """

    def show(self, query: Query | None = None, *, pixels: Tensor | None = None, sample: int = 0) -> Picture:
        r"""Return a picture of what one query attends to, over the input; notebooks show it by itself.

        Args:
            query: The query's place in ``grid.sides``; None chooses four where the input has detail.
            pixels: The input as it looks, (C, \*input sides), in [0, 1]; None is the input that was recorded,
                from its smallest value to its largest.
            sample: Which one of the batch.

        Raises:
            ValueError: The place or the sample does not exist, or the pixels are not those of the input.
            ImportError: matplotlib is missing.

        Example:
            >>> import tempfile
            >>> import torch
            >>> from nonlocalnn import capture_affinity, create_model
            >>> model = create_model("nl_digits").eval()
            >>> with capture_affinity(model) as maps:
            ...     _ = model(torch.rand(1, 1, 28, 28))
            >>> picture = maps["nl_1"].show((3, 4))
            >>> picture.save(tempfile.mkdtemp() + "/map.svg")
        """
        queries = None if query is None else [query]
        return Picture(draw_rows(self, pixels, queries=queries, sample=sample))
