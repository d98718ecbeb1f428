"""A training loop of your own that goes on bit for bit after it was stopped, in the middle of an epoch too.

``python examples/plain_loop.py runs/plain.pt`` trains; called again it goes on from the file. The order of
the samples, the random numbers of augmentation and those of dropout follow from the seed and the step alone,
so the file needs the step, the weights and the optimiser, and no state of any generator.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import nonlocalnn as nl
from nonlocalnn.data import LabelledSamples, load_dataset
from nonlocalnn.train.order import MicroBatches, SeededSamples, epoch_order, mix, steps_per_epoch

SEED = 0
BATCH_SIZE = 64


def batches(data: LabelledSamples, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches from a step of the run on, epoch after epoch."""
    an_epoch = steps_per_epoch(len(data), BATCH_SIZE)
    while True:
        epoch, start = divmod(step, an_epoch)
        order = MicroBatches(
            epoch_order(len(data), seed=SEED, epoch=epoch), batch_size=BATCH_SIZE, start_step=start
        )
        for batch, _ in DataLoader(SeededSamples(data, seed=SEED, epoch=epoch), batch_sampler=order):
            yield batch
            step += 1


def run(state_file: Path, *, stop_at: int, save_every: int = 20, progress: bool = True) -> nn.Module:
    """Train up to a step and return the network; what the file holds is gone on with."""
    data = load_dataset("digits", "train", augment=True)
    torch.manual_seed(mix(SEED, "weights"))
    model = nl.create_model("nl_digits")
    optimizer = torch.optim.AdamW(nl.param_groups(model, lr=2e-3, weight_decay=1e-4))
    step = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    reading = batches(data, step)
    while step < stop_at:
        images, targets = next(reading)
        torch.manual_seed(mix(SEED, "model", step))  # of dropout
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % save_every == 0 or step == stop_at:
            if progress:
                print(f"step {step}  loss {loss.item():.4f}")
            # Under another name first: a process that dies here leaves the state before.
            unfinished = state_file.with_suffix(".new")
            torch.save(
                {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, unfinished
            )
            os.replace(unfinished, state_file)
    return model


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/plain.pt")
    target.parent.mkdir(parents=True, exist_ok=True)
    run(target, stop_at=100)
