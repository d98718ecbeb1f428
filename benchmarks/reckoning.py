"""A training step on many GPUs, reckoned: from what a step of one is counted to do, and what is assumed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from benchmarks.step_counts import StepCounts

WAYS = ("ddp", "ddp, recomputing", "fsdp")
# What DistributedDataParallel sends at once.
_BUCKET = 25 * 2**20
_GIB = 2**30


def _assume(value: float, kind: str, why: str) -> Any:
    return field(default=value, metadata={"kind": kind, "why": why})


@dataclass(frozen=True)
class Assumed:
    """What is not measured; each number with its reason.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> Assumed(net_gbytes=20).net_gbytes, Assumed().net_gbytes
        (20, 40)
    """

    clips: float = _assume(246_000, "whole", "training videos of Kinetics-400, one clip each an epoch")
    clips_per_gpu: float = _assume(8, "whole", "clips a GPU and step, as in the paper")
    peak_tflops: float = _assume(989, "positive", "TFLOP/s of bfloat16 products, data sheet of an H100 SXM")
    peak_used: float = _assume(0.5, "share", "share of it that convolutions and products reach")
    memory_tbytes: float = _assume(3.35, "positive", "TB a second of the GPU's memory, same data sheet")
    memory_used: float = _assume(0.8, "share", "share of it that all other operators reach")
    launch_us: float = _assume(6, "any", "microseconds in which an operator starts, however small it is")
    gpus_per_node: float = _assume(8, "whole", "GPUs in a machine")
    node_gbytes: float = _assume(
        360, "positive", "GB a second inside a machine, from a GPU: 80 % of NVLink's"
    )
    net_gbytes: float = _assume(40, "positive", "GB a second to other machines, from a GPU: 400 Gbit/s, 80 %")
    hop_us: float = _assume(10, "any", "microseconds of a hop; each call of an exchange has log2(n)")
    overlap: float = _assume(0.67, "part", "share of computing that hides exchange: the backward pass")
    jitter: float = _assume(0.02, "part", "deviation of a rank's step, of a step: all wait for the slowest")
    cores_per_gpu: float = _assume(14, "positive", "cores of the host for each GPU, all of them reading")
    gpu_gib: float = _assume(80, "positive", "GiB of memory of a GPU")
    workspace_gib: float = _assume(3, "any", "GiB for CUDA, cuDNN and what the allocator cannot use")

    def __post_init__(self) -> None:
        ranges = {
            "whole": "a whole number of at least 1",
            "positive": "above 0",
            "share": "above 0 and at most 1",
            "part": "from 0 to 1",
            "any": "at least 0",
        }
        for each in fields(self):
            value, kind = getattr(self, each.name), each.metadata["kind"]
            fits = 0 <= value < math.inf
            fits &= value > 0 or kind in ("part", "any")
            fits &= value <= 1 or kind not in ("share", "part")
            fits &= value == int(value) if fits and kind == "whole" else True
            if not fits:
                raise ValueError(f"{each.name} must be {ranges[kind]}; got {value:g}")


@dataclass(frozen=True)
class Plan:
    """An epoch on many GPUs; seconds are of one step, bytes of one rank and step, where not said otherwise.

    Args:
        num_gpus: GPUs, each a rank.
        way: One of ``WAYS``.
        clips_per_step: Over all ranks.
        compute: Seconds that a GPU computes.
        exchange: Seconds that gradients, and with "fsdp" weights, are on their way.
        exposed: Those of them that computing does not hide.
        reading: Seconds in which the host's cores read a rank's share, while the GPU computes.
        waiting: Seconds for the slowest rank.
        step: Seconds in all.
        epoch: Seconds of an epoch.
        sent: Bytes that a rank sends.
        memory: Bytes that a rank holds.
        cores: Cores for each GPU with which reading would not hold it up.
        read: Bytes of files a second, over all ranks.
    """

    num_gpus: int
    way: str
    clips_per_step: int
    compute: float
    exchange: float
    exposed: float
    reading: float
    waiting: float
    step: float
    epoch: float
    sent: float
    memory: float
    cores: float
    read: float


def plan(counts: StepCounts, reading: Mapping[str, float], way: str, num_gpus: int, assumed: Assumed) -> Plan:
    """Reckon an epoch.

    An operator takes as long as its FLOPs, its bytes or its start, whichever is longest. An exchange goes
    within machines first, then a share of it between them. A step is no shorter than reading its clips.

    Args:
        counts: What a step of one GPU does.
        reading: "seconds" of a core and "bytes" of a file, for a clip.
        way: One of ``WAYS``.
        num_gpus: GPUs; of several machines a multiple of those in one.
        assumed: Speeds and sizes.
    """
    recomputes, shards = "recomputing" in way, way == "fsdp"
    compute = sum(
        (2 if recomputes and is_repeated else 1)
        * max(
            flops / (assumed.peak_tflops * 1e12 * assumed.peak_used),
            moved / (assumed.memory_tbytes * 1e12 * assumed.memory_used),
            assumed.launch_us * 1e-6,
        )
        for flops, moved, is_repeated in counts.operators
    )
    gradients = 4 * counts.parameters
    if shards:
        # Weights are gathered twice a step, in half precision; gradients are summed in float32.
        halves = [(gradients // 2, counts.units), (gradients // 2, counts.units), (gradients, counts.units)]
    else:
        # Gradients are summed, a part on each rank, and the parts are gathered.
        halves = [(gradients, math.ceil(gradients / _BUCKET))] * 2
    moves = [half_exchange(size, calls, num_gpus, assumed) for size, calls in halves]
    exchange = sum(seconds for seconds, _ in moves)
    exposed = max(0.0, exchange - assumed.overlap * compute)
    waiting = assumed.jitter * compute * slowest_of(num_gpus)
    unfed = compute + exposed + waiting
    core_seconds = assumed.clips_per_gpu * reading["seconds"]
    reads = core_seconds / assumed.cores_per_gpu
    step = max(unfed, reads)
    clips = int(assumed.clips_per_gpu) * num_gpus
    # Weights, gradients and momentum, in float32.
    state = 12 * counts.parameters / (num_gpus if shards else 1)
    kept = counts.kept_recomputing if recomputes else counts.kept
    return Plan(
        num_gpus=num_gpus,
        way=way,
        clips_per_step=clips,
        compute=compute,
        exchange=exchange,
        exposed=exposed,
        reading=reads,
        waiting=waiting,
        step=step,
        epoch=math.ceil(assumed.clips / clips) * step,
        sent=sum(sent for _, sent in moves),
        memory=state + kept + assumed.workspace_gib * _GIB,
        cores=core_seconds / unfed,
        read=clips / step * reading["bytes"],
    )


def half_exchange(size: int, calls: int, num_gpus: int, assumed: Assumed) -> tuple[float, float]:
    """Return the seconds and the bytes a rank sends of a gather, or of a sum of which each rank gets a part.

    Args:
        size: Bytes of the whole.
        calls: Parts in which they are sent.
        num_gpus: Ranks.
        assumed: Speeds of the links.
    """
    inside = min(num_gpus, int(assumed.gpus_per_node))
    machines = num_gpus / inside
    near = size * (inside - 1) / inside
    # Each GPU of a machine has a share of the whole, which it sends by a card of its own.
    far = size / inside * (machines - 1) / machines
    starts = calls * assumed.hop_us * 1e-6 * math.log2(num_gpus)
    return near / (assumed.node_gbytes * 1e9) + far / (assumed.net_gbytes * 1e9) + starts, near + far


def slowest_of(number: int) -> float:
    """Return by how many deviations the slowest of so many independent normal times is late, on average.

    Source:
        Blom, Statistical Estimates and Transformed Beta-Variables, 1958.
    """
    return statistics.NormalDist().inv_cdf((number - 0.375) / (number + 0.25))
