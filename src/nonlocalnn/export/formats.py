"""A traced network in each format: written, and run again."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as fx_config

from nonlocalnn._errors import first_line
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.export.sizes import dimension_names
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS

Run = Callable[[Tensor], Tensor]
METADATA_KEY = "nonlocalnn"
# What computes a form: the first of these of which a program holds all.
_SOFTMAX = (("Attention",), ("scaled_dot_product_attention",), ("MatMul", "Softmax"))
_PREFIX_SUMS = (("TopK", "GatherElements", "CumSum"), ("sort", "gather", "cumsum"))
_PRODUCTS = (("MatMul",), ("matmul",))


def trace(model: nn.Module, example: Tensor, axes: Sequence[int]) -> torch.export.ExportedProgram:
    """Return the program of a model, whose input may have any size along ``axes``.

    Raises:
        ValueError: PyTorch cannot trace the model, or only for the example's size.
    """
    # Not Dim.AUTO, which fixes a size where it cannot do else, and does not say so.
    sizes = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    try:
        # Else the program may hold for two samples and more only: PyTorch takes a size of 1 for a case apart.
        with fx_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]  # made at run time
            return torch.export.export(model, (example,), dynamic_shapes=(sizes,))
    except RuntimeError as error:
        advice = "; dynamic=False (--static) fixes all sizes" if axes else ""
        raise ValueError(f"PyTorch cannot export the model: {first_line(error)}{advice}") from error


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, facts: str, opset: int, axes: Sequence[int]
) -> tuple[set[str], Run]:
    """Write the file; return the names of the operators in it, and what runs it.

    Raises:
        ValueError: PyTorch has no translation, or onnxruntime does not know the operator set.
    """
    import onnxruntime

    try:
        written = torch.onnx.export(
            program,
            opset_version=opset,
            input_names=["input"],
            output_names=["scores"],
            dynamo=True,
            verbose=False,
        )
    except RuntimeError as error:
        # It speaks of PyTorch's steps; what it comes of names the operator.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValueError(f"PyTorch cannot export the model to ONNX: {first_line(cause)}") from error
    assert written is not None
    shape = written.model.graph.inputs[0].shape
    assert shape is not None
    names = dimension_names(len(shape))
    written.rename_axes({str(shape[axis]): names[axis] for axis in axes})
    written.model.metadata_props[METADATA_KEY] = facts
    written.save(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other class in common
        wide = any(value.dtype == torch.float64 for value in program.state_dict.values())
        advice = "; it lacks operators of float64: export copy.deepcopy(model).float()" if wide else ""
        raise ValueError(f"onnxruntime cannot run opset {opset}: {first_line(error)}{advice}") from error

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": x.cpu().numpy()})[0])

    return {node.op_type for node in written.model.graph}, run


def write_pt2(program: torch.export.ExportedProgram, path: Path, facts: str) -> tuple[set[str], Run]:
    """Write the file; see :func:`write_onnx`."""
    # By way of memory: on a full disk PyTorch's own writer ends the whole process.
    written = io.BytesIO()
    torch.export.save(program, written, extra_files={f"{METADATA_KEY}.json": facts})
    path.write_bytes(written.getbuffer())
    return _operators_of(program), torch.export.load(path).module()


def write_aoti(program: torch.export.ExportedProgram, path: Path, facts: str) -> tuple[set[str], Run]:
    """Compile the program into a package; see :func:`write_onnx`."""
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": {METADATA_KEY: facts}},
    )
    return _operators_of(program), torch._inductor.aoti_load_package(str(path))


def _operators_of(program: torch.export.ExportedProgram) -> set[str]:
    graphs = (each.graph for each in program.graph_module.modules() if isinstance(each, torch.fx.GraphModule))
    targets = (node.target for graph in graphs for node in graph.nodes if node.op == "call_function")
    return {target.overloadpacket.__name__ for target in targets if isinstance(target, torch._ops.OpOverload)}


def computed_by(model: nn.Module, operators: set[str]) -> dict[str, str]:
    """Return for each pairwise function in a model the operators of the program that compute it."""
    found: dict[str, str] = {}
    for block in nonlocal_blocks(model).values():
        form = block.instantiation
        of_sums = _PREFIX_SUMS if form == "concatenation" else _PRODUCTS
        ways = _SOFTMAX if form in SOFTMAX_INSTANTIATIONS else of_sums
        found[form] = next((", ".join(way) for way in ways if operators.issuperset(way)), "unknown")
    return found
