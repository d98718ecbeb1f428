"""A task of this library under Lightning's Trainer, which goes on bit for bit after it was stopped.

``python examples/lightning_loop.py runs/lightning`` trains on the digits that scikit-learn installs; called
again it goes on from the newest checkpoint, in the middle of an epoch too. Lightning's checkpoints hold the
step, the weights and the optimiser. The order of the samples and all random numbers follow from the seed and
the step, so that no generator has to be saved.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

import nonlocalnn as nl
from nonlocalnn.train import ClassificationTask, Recipe
from nonlocalnn.train.order import MicroBatches, SeededSamples, epoch_order, mix, steps_per_epoch

BATCH_SIZE = 64


class RestOfEpoch(MicroBatches):
    """The batches of an epoch from a step on; its length is that of the whole epoch.

    Lightning counts the batches before the stop, too, when it asks whether the epoch is over.
    """

    def __len__(self) -> int:
        return len(self.order) // self.batch_size


class Classifier(lightning.LightningModule):
    """Network, data and loss of a recipe.

    Args:
        recipe: Names the data set and the network, and has the seed; see :class:`nonlocalnn.train.Recipe`.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.task = ClassificationTask(recipe)
        self.samples = self.task.data("train")
        torch.manual_seed(mix(recipe.seed, "weights"))
        self.model = self.task.model(self.samples)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser; the groups keep norms out of the weight decay."""
        return torch.optim.AdamW(nl.param_groups(self.model, lr=self.recipe.lr, weight_decay=1e-4))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return what is left of the epoch; the Trainer asks anew each epoch."""
        seed = self.recipe.seed
        epoch, start = divmod(self.global_step, steps_per_epoch(len(self.samples), BATCH_SIZE))
        order = epoch_order(len(self.samples), seed=seed, epoch=epoch)
        return DataLoader(
            SeededSamples(self.samples, seed=seed, epoch=epoch),
            batch_sampler=RestOfEpoch(order, batch_size=BATCH_SIZE, start_step=start),
        )

    def training_step(self, batch: tuple[Sequence[Tensor], Tensor], batch_idx: int) -> Tensor:
        """Return the loss; what is random in the network follows from the step."""
        torch.manual_seed(mix(self.recipe.seed, "model", self.global_step))
        loss, means = self.task.loss(self.model, batch[0])
        self.log_dict({"loss": loss, **means}, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Score the validation split, as our own trainer does."""
        figures = self.task.evaluate(
            self.model, self.task.data("validation"), device=self.device, distributed=False
        )
        self.log("validation_accuracy", figures["accuracy"], prog_bar=True)


def run(folder: Path, *, steps: int, recipe: Recipe, callbacks: Sequence[Callback] = ()) -> Classifier:
    """Train up to a step, from the newest checkpoint in the folder where there is one."""
    module = Classifier(recipe)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        # The loader is made of the step, so it is made anew each epoch.
        reload_dataloaders_every_n_epochs=1,
        callbacks=[
            ModelCheckpoint(folder, save_last=True, every_n_train_steps=5, save_top_k=0),
            *callbacks,
        ],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    newest = folder / "last.ckpt"
    trainer.fit(module, ckpt_path=newest if newest.exists() else None, weights_only=True)
    return module


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lightning")
    trained = run(target, steps=100, recipe=Recipe(data="digits", model="nl_digits", lr=2e-3))
    # Every command of this library takes the file.
    path = target / "digits.safetensors"
    nl.save_checkpoint(trained.model, path, metadata=trained.task.metadata(trained.samples))
    print(f"nonlocalnn evaluate --model {path} --data digits")
