"""Whole video networks: clips a second and peak memory, beside the way they are usually run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._errors import check_choice
from nonlocalnn.benchmark.about import about
from nonlocalnn.benchmark.measure import peak_memory, time_together
from nonlocalnn.cost import cost
from nonlocalnn.fusion import fuse_
from nonlocalnn.models import create_model, list_models, sample_shape

NETWORKS = ("nl5_i3d_r50_8x8", "c2d_r50_8x8")
# The largest difference of outputs that is rounding, relative to the largest output.
_TOLERANCE = 1e-4
_WAYS = ("ours", "plain")


def run(
    names: Sequence[str] = NETWORKS,
    *,
    side: int | None = None,
    min_seconds: float = 10.0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure inference of one clip and a training step of two, on the CPU.

    "plain" is the network as it stands, clips in the default layout; "ours" holds clips and weights in
    ``channels_last_3d`` and, for inference, has its norms folded. A way whose outputs differ is an error.

    Args:
        names: Networks of :func:`nonlocalnn.list_models` that take clips.
        side: Height and width of the clips, in pixels; None is the preset's own.
        min_seconds: For how long each way is run at least, in seconds.
        progress: Takes a line for each row.

    Returns:
        "about", and "rows" with the network, the work, GFLOPs a clip, and by way the timing in seconds a
        pass, clips a second and peak bytes above weights and input.

    Raises:
        ValueError: A name is unknown, or the two ways differ in their outputs.
    """
    report: dict[str, Any] = {"about": about(device="cpu", dtype="float32", quick=False), "rows": []}
    for name in names:
        check_choice("model", name, list_models())
        for training in (False, True):
            row = _measure(name, side, training, min_seconds)
            report["rows"].append(row)
            progress(f"{name} {row['work']}: {row['ratio']:.2f} times as fast as plain")
    return report


def markdown(report: dict[str, Any]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| network | work | GFLOPs a clip | clips a second | plain | ours / plain | peak MiB | plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        speed, peak = row["clips_per_second"], row["peak_bytes"]
        lines.append(
            f"| {row['network']} | {row['work']} | {row['gflops']:.1f} | {speed['ours']:.3g} | "
            f"{speed['plain']:.3g} | {row['ratio']:.2f} | {peak['ours'] / 2**20:.0f} | "
            f"{peak['plain'] / 2**20:.0f} |"
        )
    return "\n".join(lines)


def prepare_peak(way: str, **fields: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a tiny and the full pass of one way, as :func:`peak_memory` wants them."""
    network, clips = _make(**fields)
    work = _worker(way, network, clips, training=fields["training"])
    tiny = _worker(way, network, clips[..., :32, :32], training=fields["training"])
    return tiny, work


def _measure(name: str, side: int | None, training: bool, min_seconds: float) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": name, "side": side, "training": training}
    outputs, workers = {}, {}
    for way in _WAYS:
        network, clips = _make(**fields)
        with torch.no_grad():
            prepared, given = _prepare(way, network.eval(), clips)
            outputs[way] = prepared(given)
        network, clips = _make(**fields)
        workers[way] = _worker(way, network, clips, training=training)
    error = (outputs["ours"] - outputs["plain"]).abs().max() / outputs["plain"].abs().max()
    if not error <= _TOLERANCE:
        raise ValueError(f"{name}: outputs in the two ways differ by {error:.1e} of the largest")
    timings = time_together(workers, min_seconds=min_seconds)
    peaks = {way: peak_memory(f"{__name__}:prepare_peak", {"way": way, **fields}) for way in _WAYS}
    network, clips = _make(**fields)
    return {
        "network": name,
        "work": "training step, 2 clips" if training else "inference, 1 clip",
        "gflops": cost(network, (1, *clips.shape[1:])).flops / 1e9,
        "error": float(error),
        "seconds": {way: dataclasses.asdict(timing) for way, timing in timings.items()},
        "clips_per_second": {way: len(clips) / timing.median for way, timing in timings.items()},
        "ratio": timings["plain"].median / timings["ours"].median,
        "peak_bytes": peaks,
    }


def _make(*, name: str, side: int | None, training: bool) -> tuple[nn.Module, Tensor]:
    """Return a network whose blocks and norms do something, and clips; the same at each call."""
    channels, frames, *sides = sample_shape(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = create_model(name)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                assert module.running_var is not None
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        shape = (channels, frames, *(sides if side is None else (side, side)))
        return network.train(training), torch.randn(2 if training else 1, *shape)


def _prepare(way: str, network: nn.Module, clips: Tensor) -> tuple[nn.Module, Tensor]:
    if way == "plain":
        return network, clips
    if not network.training:
        fuse_(network)
    layout = torch.channels_last_3d
    return network.to(memory_format=layout), clips.to(memory_format=layout)


def _worker(way: str, network: nn.Module, clips: Tensor, *, training: bool) -> Callable[[], object]:
    network, clips = _prepare(way, network, clips)

    def infer() -> None:
        with torch.no_grad():
            network(clips)

    def train() -> None:
        network.zero_grad(set_to_none=True)
        network(clips).logsumexp(1).sum().backward()

    return train if training else infer
