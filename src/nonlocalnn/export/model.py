"""Export: a model goes in; a file that was run at several sizes, and a report, come out."""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nonlocalnn._errors import check_choice, check_tensor, check_whole, first_line, missing_extra
from nonlocalnn._files import atomic_path
from nonlocalnn._names import EXPORT_FORMATS
from nonlocalnn.checkpoints.native import as_json
from nonlocalnn.export.formats import Run, computed_by, trace, write_aoti, write_onnx, write_pt2
from nonlocalnn.export.preparing import prepared, with_one_answer
from nonlocalnn.export.sizes import SIDES, dimension_names, other_shapes
from nonlocalnn.inference import Classifier, Segmenter
from nonlocalnn.surgery.fusion import fuse_

Format = Literal["onnx", "pt2", "aoti"]
FORMATS = EXPORT_FORMATS
TOLERANCE = 1e-4  # of the largest output
# Where float32 itself is further from float64, in a network whose norms divide by next to nothing, a right
# file differs from the model by as much: by this many times that is allowed, and never more than the last.
_TIMES_ROUNDING, _MOST = 4, 1e-2

_SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2"}
# PyTorch's exporter writes no older one, and the first with the operator Attention is the default.
_OLDEST_OPSET, _DEFAULT_OPSET = 18, 23


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it was checked.

    Args:
        path: The file.
        format: "onnx", "pt2" or "aoti".
        opset: The ONNX operator set; None for the other formats.
        operators: For each pairwise function in the model the operators that compute it.
        dynamic: Names of the input's dimensions that may have any size; the others are the example's.
        parity: For each input shape that was tried the largest difference from the model's outputs, as a part
            of the largest output.
        num_bytes: Size of the file.
    """

    path: str
    format: str
    opset: int | None
    operators: dict[str, str]
    dynamic: tuple[str, ...]
    parity: dict[tuple[int, ...], float]
    num_bytes: int

    def __str__(self) -> str:
        """Return the report as lines of text."""
        opset = "" if self.opset is None else f", opset {self.opset}"
        lines = [f"{self.path}: {self.format}{opset}, {self.num_bytes / 2**20:.1f} MiB"]
        lines += [f"  {form}: {operators}" for form, operators in self.operators.items()]
        lines.append(f"  any size: {', '.join(self.dynamic) or 'no dimension'}")
        lines += [f"  differs by {part:.1e} at {shape}" for shape, part in self.parity.items()]
        return "\n".join(lines)


def export_model(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    format: Format = "onnx",
    example_input: Tensor | None = None,
    sample_shape: Sequence[int] | None = None,
    metadata: dict[str, Any] | None = None,
    opset: int | None = None,
    dynamic: bool = True,
) -> ExportReport:
    """Write a model in eval mode to a file that needs nothing of this package to run.

    Wrappers such as ``torch.compile`` are taken off, pruned and normalised weights computed once, and norms
    folded into convolutions, as :func:`nonlocalnn.fuse_` does, unless outputs would change. The model and the
    example stay as they are. The file is run, by onnxruntime or by PyTorch, on the example and on
    inputs of two other sizes, and kept only where it equals the model on all of them up to ``TOLERANCE``, or
    up to four times the model's own rounding where that is larger.
    An older file of that name stays until then.

    Args:
        model: Takes one tensor (B, C, *sides) and returns one; weights of 32 or 64 bits.
        path: The file, ending in ``.onnx`` or, for the other two, ``.pt2``.
        format: "onnx" for onnxruntime and others, "pt2" for ``torch.export.load``, "aoti" for a compiled
            package of this kind of machine, for ``torch._inductor.aoti_load_package`` or C++.
        example_input: An input, shape (B, C, *sides).
        sample_shape: In its place the shape of one sample, (C, *sides); random numbers are the example.
        metadata: JSON-ready facts to keep in the file, such as class names, see :func:`describe`.
        opset: The ONNX operator set, at least 18; None is 23, the first with the operator ``Attention``.
        dynamic: Leave batch and sides open, as far as the model takes other sizes; False fixes the example's.

    Raises:
        ValueError: A setting is unknown or has no effect, PyTorch cannot export the model, it returns
            something else than one tensor of numbers, or the file does not take other sizes, as where the
            example is so small that a map inside has sides of 1.
        TypeError: ``model`` is no module, or ``example_input`` no tensor.
        ArithmeticError: The file's outputs are not the model's; nothing was written.
        ImportError: A library for ONNX is not installed.
        FileNotFoundError: There is no C++ compiler, and the format is "aoti".

    Memory:
        Of a block in the file. The two Gaussian forms: O(N M) where onnxruntime runs ``Attention`` on the
        CPU, linear in PyTorch. Dot product and concatenation: linear in N + M everywhere.

    Example:
        >>> import tempfile
        >>> from nonlocalnn import create_model
        >>> path = tempfile.mkdtemp() + "/clips.pt2"
        >>> model = create_model("nl2_c1d_tiny", instantiation="dot_product")
        >>> report = export_model(model, path, format="pt2", sample_shape=(3, 64))
        >>> report.dynamic, report.operators
        (('batch', 'length'), {'dot_product': 'matmul'})
    """
    path = Path(path)
    opset = _checked_opset(path, format, opset)
    facts = as_json(metadata)
    model = prepared(model)
    example, answer = _example(model, example_input, sample_shape)
    model = with_one_answer(model, answer)
    others = other_shapes(model, example) if dynamic else ()
    axes = [
        axis for axis in range(example.dim()) if any(each[axis] != example.shape[axis] for each in others)
    ]
    # A compiled package must be called .pt2 to be loaded, which a file beside its place would not be.
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporters warn of their own inner workings
        built = Path(folder) / f"model{_SUFFIXES[format]}"
        inputs = [example, *(_random(shape, example) for shape in others)]
        program = trace(_fused(model, inputs), example, axes)
        if format == "onnx":
            assert opset is not None
            operators, run = write_onnx(program, built, facts, opset, axes)
        else:
            operators, run = (write_pt2 if format == "pt2" else write_aoti)(program, built, facts)
        parity = {tuple(x.shape): _difference(run, model, x) for x in inputs}
        with atomic_path(path) as temporary:
            shutil.copyfile(built, temporary)
    return ExportReport(
        path=str(path),
        format=format,
        opset=opset,
        operators=computed_by(model, operators),
        dynamic=tuple(dimension_names(example.dim())[axis] for axis in axes),
        parity=parity,
        num_bytes=path.stat().st_size,
    )


def describe(trained: Classifier | Segmenter) -> dict[str, Any]:
    """Return what a user of an exported network must know, JSON-ready: classes, pixels and clips."""
    return trained.facts()


def _checked_opset(path: Path, format: str, opset: int | None) -> int | None:
    """Return the operator set after checks of all settings that need no work."""
    check_choice("format", format, FORMATS)
    if path.suffix != _SUFFIXES[format]:
        raise ValueError(f"a file of the format {format!r} must end in {_SUFFIXES[format]}; got {path.name}")
    if format == "onnx":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            if importlib.util.find_spec(library) is None:
                raise missing_extra(library, "export", "export to ONNX")
        if opset is None:
            return _DEFAULT_OPSET
        import onnx

        check_whole("opset", opset, least=_OLDEST_OPSET, most=onnx.defs.onnx_opset_version())
        return opset
    if opset is not None:
        raise ValueError(f"opset is a setting of the format 'onnx'; {format!r} has none: leave it out")
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
    if format == "aoti" and not any(shutil.which(compiler) for compiler in compilers):
        raise FileNotFoundError(
            "the format 'aoti' is compiled and there is no C++ compiler: install g++, or name one in CXX"
        )
    return None


def _fused(model: nn.Module, inputs: Sequence[Tensor]) -> nn.Module:
    """Return a copy whose norms are folded into convolutions, or not where it would compute something else.

    So it does where a Sequential's layers are called one by one, and what lies between them is used.
    """
    fused = fuse_(copy.deepcopy(model))
    try:
        for x in inputs:
            _difference(fused, model, x)
    except (ArithmeticError, ValueError):
        return copy.deepcopy(model)
    return fused


def _example(
    model: nn.Module, given: Tensor | None, sample_shape: Sequence[int] | None
) -> tuple[Tensor, object]:
    """Return the example with at least two samples, and the model's answer to it.

    PyTorch would take one sample for what the batch always is.
    """
    if (given is None) == (sample_shape is None):
        raise ValueError("name the input's size by example_input or by sample_shape, by one of the two")
    if given is None:
        assert sample_shape is not None
        weight = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
        for side in sample_shape:
            check_whole("each size in sample_shape", side)
        given = _random((2, *sample_shape), weight)
    check_tensor("example_input", given)
    if given.dim() - 2 not in SIDES or not given.numel():
        raise ValueError(
            "an input is (B, C, *sides), none of them 0, with one to three sides; got shape "
            f"{tuple(given.shape)}"
        )
    example = torch.cat([given, given]) if given.shape[0] == 1 else given
    try:
        with torch.no_grad():
            # Copies here and below: some models write into their input.
            answer = model(example.clone())
    except Exception as error:  # one that takes several inputs raises a TypeError, others assert
        shape = tuple(example.shape)
        raise ValueError(f"the model does not take an input of shape {shape}: {first_line(error)}") from error
    return example, answer


def _random(shape: Sequence[int], like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randn(tuple(shape), generator=generator).to(like)


def _difference(run: Run, model: nn.Module, x: Tensor) -> float:
    """Return how far the outputs of a program are from the model's, as a part of the largest of these.

    Raises:
        ValueError: The program does not take the input, and the model does.
        ArithmeticError: It is more than ``TOLERANCE``, and than the model's rounding explains.
    """
    expected = model(x.clone())
    try:
        found = run(x.clone()).to(expected)
    except Exception as error:  # an AssertionError of PyTorch's, or one of onnxruntime's many
        raise ValueError(
            f"the exported program does not take an input of shape {tuple(x.shape)}, nothing was written: "
            f"{first_line(error)}; export with a larger example, or with dynamic=False"
        ) from error
    if found.shape != expected.shape:
        raise ArithmeticError(
            f"the exported program gives shape {tuple(found.shape)} where the model gives "
            f"{tuple(expected.shape)}, for an input of shape {tuple(x.shape)}; nothing was written"
        )
    if not expected.isfinite().all():
        raise ArithmeticError(
            f"the model's outputs for an input of shape {tuple(x.shape)} are not all finite numbers, so that "
            "no file can be compared with it; nothing was written"
        )
    difference = _part(found, expected)
    # Written so that NaN fails too.
    if not difference <= TOLERANCE:
        allowed = max(TOLERANCE, min(_TIMES_ROUNDING * _rounding(model, x, expected), _MOST))
        if not difference <= allowed:
            raise ArithmeticError(
                f"the exported program differs from the model by {difference:.1e} of the largest output, "
                f"more than {allowed:.0e}, for an input of shape {tuple(x.shape)}; nothing was written"
            )
    return difference


def _part(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a part of the largest number that was expected."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _rounding(model: nn.Module, x: Tensor, answer: Tensor) -> float:
    """Return how far a model's answer is from its own in float64; 0 where that cannot be told."""
    # Random numbers in a forward are no rounding.
    if x.dtype != torch.float32 or not torch.equal(model(x.clone()), answer):
        return 0.0
    try:
        part = _part(answer, copy.deepcopy(model).double()(x.double()))
    except RuntimeError:  # it makes tensors of float32 in its forward
        return 0.0
    return part if math.isfinite(part) else 0.0
