"""One cell of the benchmark: a block, an input and a direction, and the candidates that compute it."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import baselines
from benchmarks.floor import count_positions
from nonlocalnn.blocks import BLOCKS, NonLocalNd, SubSample
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS, Instantiation

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The largest error that is nothing but rounding, relative to the branch that the block adds to x.
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
_CROPS = {1: (256,), 2: (16, 16), 3: (4, 8, 8)}
_BUILDERS: dict[str, Callable[[NonLocalNd], nn.Module]] = {
    "ours": lambda block: block,
    "materialised": baselines.MaterialisedBlock,
    "repeat": lambda block: baselines.MaterialisedBlock(block, "repeat"),
    "timm": baselines.timm_block,
    "mmcv": baselines.mmcv_block,
    "sdpa": baselines.PlainAttentionBlock,
    "flex": lambda block: _compiled(baselines.FlexBlock(block)),
    "compiled": lambda block: _compiled(baselines.MaterialisedBlock(block)),
    "ours compiled": lambda block: _compiled(block),
}


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Args:
        form: The instantiation.
        shape: The input's, (B, C, N), (B, C, H, W) or (B, C, T, H, W).
        sub_sample: As of the block.
        backward: Forward in train mode and gradients of the input and all parameters, or forward alone in
            eval mode and without gradients.
        device: "cpu", "cuda" or "cuda:N".
        dtype: "float32" or "bfloat16", of input and weights.
        logits: Standard deviation of the logits of the two Gaussian forms. At 1 those of the Gaussian are
            smaller: that of a position with itself is about 4, or else it alone would have all the weight.
            Unscaled embeddings of 512 channels reach 30, where exponentials of most logits underflow.
    """

    form: Instantiation
    shape: tuple[int, ...]
    sub_sample: SubSample
    backward: bool
    device: str = "cpu"
    dtype: str = "float32"
    logits: float = 1.0

    @property
    def direction(self) -> str:
        """The direction in words."""
        return "forward+backward" if self.backward else "forward"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}


def make_cell(cell: Cell) -> tuple[NonLocalNd, Tensor]:
    """Return the block and the input of a cell, the same at each call.

    At logits of 1 no softmax is nearly one-hot, and the norm's statistics make the branch about as large as
    the input: errors in it would not be seen otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = BLOCKS[len(cell.shape) - 3](
            cell.shape[1], instantiation=cell.form, sub_sample=cell.sub_sample, zero_init=False
        )
        x = torch.randn(cell.shape)
    if cell.form == "gaussian":
        channels = cell.shape[1]
        x *= 2 / channels**0.5 if cell.logits == 1 else (cell.logits / channels**0.5) ** 0.5
    with torch.no_grad():
        part = crop(x)
        if block.theta is not None and block.phi is not None and cell.form in SOFTMAX_INSTANTIATIONS:
            queries, keys = (baselines.convolve(part, layer).flatten(2) for layer in (block.theta, block.phi))
            spread = (queries.transpose(1, 2) @ keys).std()
            for parameter in block.theta.parameters():
                parameter.mul_(cell.logits / spread)
        assert block.norm is not None
        block.norm.momentum = 1.0
        block.train()(part)
        block.norm.momentum = 0.1
    block.train(cell.backward).to(cell.device, DTYPES[cell.dtype])
    return block, x.to(cell.device, DTYPES[cell.dtype]).requires_grad_(cell.backward)


def crop(x: Tensor) -> Tensor:
    """Return a part of an input that is small enough for any candidate, at most two entries."""
    part = x.detach()[:2]
    for axis, length in enumerate(_CROPS[x.dim() - 2], 2):
        part = part.narrow(axis, 0, min(length, x.shape[axis]))
    return part.contiguous()


def candidate_names(cell: Cell, compiled: bool = False) -> list[str]:
    """Return the candidates that compute a block like the cell's, ours first.

    Args:
        cell: What is measured.
        compiled: Add the plain block and ours under ``torch.compile``, which takes half a minute a cell.
    """
    names = ["ours", "materialised"]
    if cell.form == "concatenation":
        names.append("repeat")
    if len(cell.shape) == 4 and cell.form == "embedded_gaussian" and cell.sub_sample is None:
        names.append("timm")
    names.append("mmcv")
    if cell.form in SOFTMAX_INSTANTIATIONS:
        names.append("sdpa")
    if not compiled:
        return names
    has_flex = cell.form in SOFTMAX_INSTANTIATIONS and torch.device(cell.device).type == "cuda"
    return [*names, "compiled", *["flex"] * has_flex, "ours compiled"]


def build(name: str, block: NonLocalNd) -> nn.Module:
    """Return a candidate that computes the block with the block's own parameters.

    Raises:
        ImportError: The library is missing.
    """
    return _BUILDERS[name](block).train(block.training)


def _compiled(module: nn.Module) -> nn.Module:
    """Return a module under ``torch.compile``, once for each shape that it meets."""
    # By itself it would compile the second shape for any size, and be slower at it.
    return torch.compile(module, dynamic=False)  # type: ignore[return-value]


def worker(cell: Cell, block: NonLocalNd, module: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return the function that is timed: one pass of a candidate in the cell's direction."""
    gradient = torch.ones_like(x)
    parameters = list(block.parameters())

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def forward_backward() -> None:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        module(x).backward(gradient)

    return forward_backward if cell.backward else forward


def prepare_peak(name: str, **fields: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a tiny and the full pass of a candidate, as ``peak_memory`` wants them."""
    cell = Cell(**{**fields, "shape": tuple(fields["shape"])})
    block, x = make_cell(cell)
    module = build(name, block)
    tiny = x.detach()[:1]
    for axis in range(2, x.dim()):
        tiny = tiny.narrow(axis, 0, min(4, x.shape[axis]))
    tiny = tiny.contiguous().requires_grad_(cell.backward)
    return worker(cell, block, module, tiny), worker(cell, block, module, x)


def reference_values(cell: Cell, block: NonLocalNd, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return an input, x or a crop of it, and the specification's output for it, in float32.

    The crop is taken where one affinity and what is made of it would not fit in 40 % of the free memory;
    the reference goes by parts and would still be computed, but in hours.
    """
    num_queries, num_keys = count_positions(block, cell.shape)
    whole = 3 * 4 * cell.shape[0] * num_queries * num_keys <= 0.4 * free_memory(cell.device)
    part = x.detach() if whole else crop(x)
    with torch.no_grad():
        return part, _reference(block)(part.float())


def find_error(cell: Cell, block: NonLocalNd, module: nn.Module, part: Tensor, expected: Tensor) -> float:
    """Return a candidate's error against the reference: of its output, and of its gradients on a crop.

    Errors are norms of differences over norms: of the branch z - x, of the gradient of x, and of those of
    all parameters together (some are 0 by themselves, such as that of phi's bias).
    """
    with torch.no_grad():
        error = relative_error(module(part).float(), expected, expected - part.float())
    if not cell.backward:
        return error
    reference, small = _reference(block), crop(part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        gradient = torch.randn(small.shape).to(small)
    wanted = _gradients(reference, reference.block, small.float(), gradient.float())
    found = _gradients(module, block, small, gradient)
    return max(
        error, *(relative_error(ours, theirs, theirs) for ours, theirs in zip(found, wanted, strict=True))
    )


def find_tolerance(cell: Cell, block: NonLocalNd, part: Tensor, expected: Tensor) -> float:
    """Return the largest error with which a candidate is timed.

    In bfloat16 the specification itself, given rounded projections, is off by several per cent where a batch
    normalisation takes off a mean much larger than what varies: twice its own error is allowed then.
    """
    if cell.dtype == "float32":
        return TOLERANCES["float32"]
    own = find_error(cell, block, baselines.ReferenceBlock(block).train(block.training), part, expected)
    return max(TOLERANCES[cell.dtype], 2 * own)


def relative_error(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    """Return |found - expected| / |scale|, infinite where anything is not a number."""
    error = float((found - expected).norm() / scale.norm())
    return error if error == error else float("inf")


def estimate_bytes(name: str, cell: Cell, block: NonLocalNd) -> int:
    """Return about what a candidate needs for its N x M tensors, in bytes; 0 where it has none."""
    num_queries, num_keys = count_positions(block, cell.shape)
    depth = 2 * block.inter_channels
    # Without and with gradients: logits, what is made of them, and the gradients of both.
    tensors = (3, 5) if cell.form in SOFTMAX_INSTANTIATIONS else (2, 3)
    if name == "repeat":
        tensors = (depth + 2, 2 * depth + 3)
    elif name == "mmcv" and cell.form == "concatenation":
        tensors = (2 * depth + 2, 3 * depth + 3)
    elif name in ("ours", "ours compiled") or name == "flex" or (name == "sdpa" and cell.form != "gaussian"):
        # Of the Gaussian theta and g are of two widths, for which PyTorch has no kernel on the CPU.
        tensors = (0, 0)
    size = DTYPES[cell.dtype].itemsize
    return cell.shape[0] * num_queries * num_keys * size * tensors[cell.backward]


def free_memory(device: str) -> int:
    """Return the memory that can be had on a device, in bytes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    listing = Path("/proc/meminfo")
    if listing.exists():
        line = next(line for line in listing.read_text().splitlines() if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reference(block: NonLocalNd) -> baselines.ReferenceBlock:
    twin = copy.deepcopy(block).float()
    twin.zero_grad(set_to_none=True)
    return baselines.ReferenceBlock(twin).train(block.training)


def _gradients(module: nn.Module, block: NonLocalNd, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the input and of all the block's parameters, the latter as one vector."""
    x = x.clone().requires_grad_()
    block.zero_grad(set_to_none=True)
    module(x).backward(gradient)
    assert x.grad is not None
    parts = []
    for parameter in block.parameters():
        part = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parts.append(part.flatten().float())
    return x.grad.float(), torch.cat(parts)
