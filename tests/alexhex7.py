"""The other code base's digit network, rebuilt from the facts known of it: its keys and its arithmetic.

Written from the description of the network, not from its code: names, layer order, sub-sampling after phi
and g, no scale on the logits, division by the number of keys.
"""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import randomize_


class TheirBlock(nn.Module):
    def __init__(self, channels, kind, *, sub_sample=True, bn_layer=True):
        super().__init__()
        inter, self.kind = channels // 2, kind
        self.g = self.pooled(nn.Conv2d(channels, inter, 1), sub_sample)
        if kind == "gaussian":
            self.phi = nn.MaxPool2d(2) if sub_sample else nn.Identity()
        else:
            self.theta = nn.Conv2d(channels, inter, 1)
            self.phi = self.pooled(nn.Conv2d(channels, inter, 1), sub_sample)
        out = nn.Conv2d(inter, channels, 1)
        self.W = nn.Sequential(out, nn.BatchNorm2d(channels)) if bn_layer else out
        if kind == "concatenation":
            self.concat_project = nn.Sequential(nn.Conv2d(2 * inter, 1, 1, bias=False), nn.ReLU())

    @staticmethod
    def pooled(layer, sub_sample):
        return nn.Sequential(layer, nn.MaxPool2d(2)) if sub_sample else layer

    def weights(self, x):
        theta = (x if self.kind == "gaussian" else self.theta(x)).flatten(2)
        phi = self.phi(x).flatten(2)
        if self.kind == "concatenation":
            pairs = torch.cat(
                [
                    theta.unsqueeze(3).expand(-1, -1, -1, phi.shape[2]),
                    phi.unsqueeze(2).expand(-1, -1, theta.shape[2], -1),
                ],
                dim=1,
            )
            return self.concat_project(pairs)[:, 0] / phi.shape[2]
        f = theta.transpose(1, 2) @ phi
        return f / phi.shape[2] if self.kind == "dot_product" else F.softmax(f, dim=2)

    def forward(self, x):
        y = self.weights(x) @ self.g(x).flatten(2).transpose(1, 2)
        return self.W(y.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])) + x


class TheirNetwork(nn.Module):
    def __init__(self, kind, **settings):
        super().__init__()
        for number, (inputs, outputs) in enumerate(((1, 32), (32, 64), (64, 128)), 1):
            stage = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)
            )
            self.add_module(f"conv_{number}", stage)
            if number < 3:
                self.add_module(f"nl_{number}", TheirBlock(outputs, kind, **settings))
        self.fc = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10))

    def forward(self, x):
        x = self.nl_1(self.conv_1(x))
        x = self.nl_2(self.conv_2(x))
        return self.fc(self.conv_3(x).flatten(1))

    def maps(self, x):
        first = self.conv_1(x)
        return self.nl_1.weights(first), self.nl_2.weights(self.conv_2(self.nl_1(first)))


def randomized(kind, **settings):
    # Small weights: products of three random layers would make every softmax a one-hot row.
    network = randomize_(TheirNetwork(kind, **settings)).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.dim() > 1:
                value.mul_(2 / value[0].numel() ** 0.5)
            assert value.abs().max() > 0, name
    return network
