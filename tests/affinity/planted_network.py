"""A network whose one block does what it is told to, and samples that need it."""

import torch
from torch import nn
from torch.nn import functional as F

from nonlocalnn import NonLocal1d
from nonlocalnn.tasks.probabilities import real_part

# Channels of a sample, (B, 4, N): a mark, a value, 1 where it is real, and what the block writes.
MARK, VALUE, REAL, OUT = range(4)
SURE = 20.0  # a logit that leaves the others nothing
LENGTH = 23


class Reader(nn.Module):
    """Two classes by what lies at the first position after the block, in one channel."""

    def __init__(self, *, looks_at, reads=VALUE, writes=1.0, instantiation="embedded_gaussian", **settings):
        super().__init__()
        settings = {"inter_channels": 1, "norm": None, "sub_sample": None, **settings}
        self.block = NonLocal1d(4, instantiation=instantiation, **settings)
        for parameter in self.block.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            self.block.theta.bias.fill_(1.0)
            for channel, logit in looks_at.items():
                self.block.phi.weight[:, channel] = logit
            self.block.g.weight[:, reads] = 1.0
            self.block.W_z.weight[OUT] = writes

    def forward(self, x):
        score = SURE * self.block(x)[:, OUT, 0]
        return torch.stack([-score, score], 1)


def loss(model, batch):
    """Cross-entropy and accuracy; a third part of the batch tells the blocks what is real."""
    samples, targets, *sizes = batch
    with real_part(samples, sizes):
        scores = model(samples)
    return F.cross_entropy(scores, targets), {"accuracy": (scores.argmax(1) == targets).float().mean()}


def blindly(model, batch):
    """The same, and the network knows nothing of padding."""
    return loss(model, batch[:2])


def batches(*, number=6, batch=7, padded=False, answer="marked"):
    """Samples whose class is the sign of the marked value, of the values' mean, or of OUT itself; or 1."""
    torch.manual_seed(0)
    made = []
    for _ in range(number):
        sizes = torch.randint(8, LENGTH - 8, (batch, 1)) if padded else torch.full((batch, 1), LENGTH)
        x = torch.zeros(batch, 4, LENGTH)
        x[:, VALUE] = torch.randn(batch, LENGTH)
        x[:, REAL] = torch.arange(LENGTH) < sizes
        place = torch.randint(1, 8, (batch,))
        x[torch.arange(batch), MARK, place] = 1.0
        decided = x[:, VALUE] * x[:, REAL]
        # Padding that is no zero, so that whoever attends to it says something.
        x[:, VALUE] = torch.where(x[:, REAL] > 0, x[:, VALUE], 1.0)
        if answer == "own":
            x[:, OUT, 0] = torch.randn(batch)
        decides = {
            "marked": x[torch.arange(batch), VALUE, place],
            "mean": decided.sum(1),
            "always": torch.ones(batch),
            "own": x[:, OUT, 0],
        }[answer]
        made.append([x, (decides > 0).long(), *([sizes] if padded else [])])
    return made
