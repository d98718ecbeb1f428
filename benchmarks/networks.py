"""One row of the benchmark of networks: a whole network in the ways it is run, checked, weighed and timed."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baselines import MaterialisedBlock
from benchmarks.measure import peak_memory, time_together
from benchmarks.rows import Row
from nonlocalnn._errors import check_choice, missing_extra
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.export import export_model
from nonlocalnn.models import create_model, list_models, sample_shape
from nonlocalnn.models.bottleneck import FrozenNorm
from nonlocalnn.models.cost import Cost, cost
from nonlocalnn.surgery.fusion import fuse_

TORCHVISION = ("r3d_18", "r2plus1d_18")
# The size that torchvision's weights were trained at.
_TORCHVISION_CLIP = (3, 16, 112, 112)
# Materialised is the same network but for the engine of its blocks: what that saves is seen of the whole.
_WEIGHED = ("ours", "plain", "materialised")
WAYS = (*_WEIGHED, "plain, channels last", "compiled", "onnxruntime", "openvino", "ours, bfloat16")
# The largest difference of outputs that is rounding, relative to the largest output.
_TOLERANCE, _NARROW_TOLERANCE = 1e-5, 5e-2


@dataclass(frozen=True)
class Work:
    """What is measured.

    Args:
        network: One of :func:`nonlocalnn.list_models` that takes clips, or of :data:`TORCHVISION`.
        training: A training step, or inference.
        num_clips: Clips of a pass.
        side: Height and width of the clips, in pixels; None is the network's own.
        overrides: Settings that differ from the preset's; torchvision's networks have none.
    """

    network: str
    training: bool
    num_clips: int
    side: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The work in words."""
        clips = "1 clip" if self.num_clips == 1 else f"{self.num_clips} clips"
        return f"{'training step' if self.training else 'inference'}, {clips}"

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Shape of a clip, (3, T, H, W)."""
        own = _TORCHVISION_CLIP if self.network in TORCHVISION else sample_shape(self.network)
        return own if self.side is None else (*own[:2], self.side, self.side)


def measure_network(work: Work, ways: Sequence[str], *, min_seconds: float, min_runs: int = 3) -> Row:
    """Check, weigh and time a network in several ways, on the CPU.

    - ``ours``: clips and weights in ``channels_last_3d`` and, for inference, norms folded;
    - ``plain``: the network as it stands, clips in the default layout;
    - ``plain, channels last``: the same with clips and weights in ``channels_last_3d``;
    - ``materialised``: as ours, but the blocks hold the N x M affinity;
    - ``compiled``: the materialised network, norms as they stand, under ``torch.compile``;
    - ``onnxruntime``, ``openvino``: ours, exported to ONNX and run there; inference only;
    - ``ours, bfloat16``: ours under autocast to bfloat16.

    Args:
        work: What to measure.
        ways: Of the table; the first is what the others must equal.
        min_seconds: As of :func:`benchmarks.measure.time_together`.
        min_runs: The same.

    Returns:
        "network", "work", "form" of its blocks, "clip" (its shape), and "error" by way, the largest
        difference from the first way's outputs over the largest of them; by way "gflops" of a clip's forward
        pass, "seconds" of a pass,
        "clips_per_second", "gflops_per_second", for which a training step counts three forward passes, and
        "peak_bytes" above weights and input; "ratio", another way's time over ours; and in "absent" why a
        way was not run. Memory is of the ways that are PyTorch's alone and not compiled.

    Raises:
        ValueError: A name is unknown, or two ways differ in their outputs.
        ImportError: The network is torchvision's, which is missing.
    """
    for way in ways:
        check_choice("way", way, WAYS)
    network, clips = make(work)
    counted = cost(network, (1, *clips.shape[1:]))
    # First: what memory does not suffice for ends a process of its own, and must not end this one.
    peaks, absent = _peaks(work, [way for way in ways if way in _WEIGHED])
    absent |= {way: f"{way} is not installed" for way in ways if way in _ENGINES and not find_spec(way)}
    left = [way for way in ways if way not in absent]
    checked = {way: _prepared(way, work, training=False) for way in left}
    error = _find_errors(work, checked)
    if work.training:
        checked = {way: _prepared(way, work, training=True) for way in left}
    workers = {way: _pass(*prepared) for way, prepared in checked.items()}
    timings = time_together(workers, min_seconds=min_seconds, min_runs=min_runs)
    gflops = {way: _flops(way, counted) / 1e9 for way in timings}
    speed = {way: work.num_clips / timing.median for way, timing in timings.items()}
    ours = timings.get("ours")
    return {
        "network": work.network,
        "work": work.words,
        "form": counted.blocks[0].instantiation if counted.blocks else None,
        "clip": list(work.clip_shape),
        "gflops": gflops,
        "error": error,
        "seconds": {way: dataclasses.asdict(timing) for way, timing in timings.items()},
        "clips_per_second": speed,
        "gflops_per_second": {way: gflops[way] * speed[way] * (3 if work.training else 1) for way in speed},
        "ratio": {
            way: timing.median / ours.median
            for way, timing in timings.items()
            if ours is not None and way != "ours"
        },
        "peak_bytes": peaks,
        "absent": absent,
    }


def make(work: Work) -> tuple[nn.Module, Tensor]:
    """Return a network whose blocks and norms do something, and clips; the same at each call.

    Raises:
        ValueError: There is no network of this name.
        ImportError: It is torchvision's, which is missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _build(work)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d | FrozenNorm):
                assert module.running_var is not None
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        return network.train(work.training), torch.randn(work.num_clips, *work.clip_shape)


def prepare_peak(way: str, **fields: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a tiny and the full pass of one way, as :func:`peak_memory` wants them."""
    work = Work(**fields)
    network, clips = _prepare(way, *make(work))
    return _pass(network, clips[..., :32, :32]), _pass(network, clips)


def _build(work: Work) -> nn.Module:
    if work.network not in TORCHVISION:
        check_choice("model", work.network, list_models())
        return create_model(work.network, **work.overrides)
    try:
        from torchvision.models import get_model
    except ImportError:
        raise missing_extra("torchvision", "data", "the comparison with torchvision") from None
    return get_model(work.network, weights=None)


def _prepare(way: str, network: nn.Module, clips: Tensor) -> tuple[nn.Module, Tensor]:
    if way == "plain":
        return network, clips
    if way in ("materialised", "compiled"):
        for name, block in nonlocal_blocks(network).items():
            network.set_submodule(name, MaterialisedBlock(block))
    if not network.training and way not in ("plain, channels last", "compiled"):
        fuse_(network)
    if way in _ENGINES:
        return _Exported(network, clips, way), clips
    layout = torch.channels_last_3d
    network, clips = network.to(memory_format=layout), clips.to(memory_format=layout)
    if way == "compiled":
        torch.compiler.reset()
        return cast(nn.Module, torch.compile(network)), clips
    return (_Narrow(network) if way == "ours, bfloat16" else network), clips


class _Narrow(nn.Module):
    """A network under autocast to bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, clips: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(clips).float()


class _Exported(nn.Module):
    """A network as another engine runs it, from an ONNX file."""

    def __init__(self, network: nn.Module, clips: Tensor, engine: str) -> None:
        super().__init__()
        self.training = network.training
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export_model(network, path, format="onnx", example_input=torch.cat([clips, clips]))
            self._run = _ENGINES[engine](path.read_bytes())

    def forward(self, clips: Tensor) -> Tensor:
        return torch.from_numpy(self._run(clips.numpy()))


def _onnxruntime(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda clips: session.run(None, {name: clips})[0]


def _openvino(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    return lambda clips: compiled([clips])[0]


_ENGINES = {"onnxruntime": _onnxruntime, "openvino": _openvino}


def _prepared(way: str, work: Work, *, training: bool) -> tuple[nn.Module, Tensor]:
    network, clips = make(work)
    return _prepare(way, network.train(training), clips)


def _pass(network: nn.Module, clips: Tensor) -> Callable[[], None]:
    """Return inference or a training step, as the network's mode tells."""

    def infer() -> None:
        with torch.no_grad():
            network(clips)

    def train() -> None:
        network.zero_grad(set_to_none=True)
        network(clips).logsumexp(1).sum().backward()

    return train if network.training else infer


def _find_errors(work: Work, prepared: Mapping[str, tuple[nn.Module, Tensor]]) -> dict[str, float]:
    """Return the largest difference of outputs between the first way and each other, over the largest output.

    Raises:
        ValueError: It is more than rounding.
    """
    with torch.no_grad():
        outputs = {way: network(clips) for way, (network, clips) in prepared.items()}
    ways = list(outputs)
    first, errors = outputs[ways[0]], {}
    for other in ways[1:]:
        errors[other] = float((first - outputs[other]).abs().max() / first.abs().max())
        if not errors[other] <= (_NARROW_TOLERANCE if "bfloat16" in other else _TOLERANCE):
            raise ValueError(
                f"{work.network}: outputs of {ways[0]} and {other} differ by {errors[other]:.1e} of the "
                "largest"
            )
    return errors


def _peaks(work: Work, ways: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Return each way's peak in bytes, and why a way has none."""
    peaks, absent = {}, {}
    for way in ways:
        try:
            peaks[way] = peak_memory(f"{__name__}:prepare_peak", {"way": way, **dataclasses.asdict(work)})
        except MemoryError as failure:
            absent[way] = str(failure)
    return peaks, absent


def _flops(way: str, counted: Cost) -> int:
    return counted.materialised_flops if way == "materialised" else counted.flops
