"""Video networks of three code bases, rebuilt from the facts known of them: their keys and their arithmetic.

Each is a state dict under its own names and a forward pass that looks tensors up by these names, written from
the description of the networks and not from their code, nor with any of ours.
"""

import torch
from torch.nn import functional as F

EPS = 1e-5
LENGTHS = (3, 4, 6, 3)
FIVE_BLOCKS = {3: (1, 3), 4: (1, 3, 5)}


class ForeignNetwork:
    """What the three have in common; stages are 2 to 5, as in the paper.

    Args:
        inflation: "3x1x1", "3x3x3" or None.
        blocks: The places of blocks in each stage.
        kind: Of the blocks.
        early: Whether time is halved by the first convolution and the first pooling.
        group: How many frames the blocks of res3 see at once; None is all.
    """

    pads_pool1 = 1
    scales = True
    early_pool = 2
    out_has_bias = True
    statistics = ("weight", "bias", "running_mean", "running_var")

    def __init__(
        self,
        *,
        inflation="3x1x1",
        blocks=FIVE_BLOCKS,
        kind="embedded_gaussian",
        early=False,
        lengths=LENGTHS,
        width=4,
        classes=7,
        group=None,
    ):
        self.inflation, self.blocks, self.kind, self.early = inflation, blocks, kind, early
        self.lengths, self.width, self.group = lengths, width, group
        self.state = {}
        self.draw(classes)

    # --- weights

    def inflated(self, stage, place):
        return {2: True, 3: place % 2 == 0, 4: place % 2 == 0, 5: place % 2 == 1}[stage]

    def places(self):
        for stage, length in zip(range(2, 6), self.lengths, strict=True):
            for place in range(length):
                yield stage, place

    def draw(self, classes):
        self.draw_conv("stem", self.width, 3, (5 if self.inflation else 1, 7, 7))
        self.draw_norm("stem", self.width)
        channels = self.width
        for stage, place in self.places():
            inner = self.width * 2 ** (stage - 2)
            spans = 3 if self.inflation and self.inflated(stage, place) else 1
            a = (spans if self.inflation == "3x1x1" else 1, 1, 1)
            b = (spans if self.inflation == "3x3x3" else 1, 3, 3)
            for branch, outputs, inputs, kernel in (
                ("a", inner, channels, a),
                ("b", inner, inner, b),
                ("c", 4 * inner, inner, (1, 1, 1)),
            ):
                self.draw_conv((stage, place, branch), outputs, inputs, kernel)
                self.draw_norm((stage, place, branch), outputs)
            if place == 0:
                self.draw_conv((stage, place, "short"), 4 * inner, channels, (1, 1, 1))
                self.draw_norm((stage, place, "short"), 4 * inner)
            channels = 4 * inner
            if place in self.blocks.get(stage, ()):
                self.draw_block(stage, place, channels)
        self.state[self.weight("fc")] = torch.randn(classes, channels) * channels**-0.5
        self.state[self.bias("fc")] = torch.randn(classes)

    def draw_block(self, stage, place, channels):
        for layer in ("g",) if self.kind == "gaussian" else ("theta", "phi", "g"):
            self.draw_conv((stage, place, layer), channels // 2, channels, (1, 1, 1), bias=True)
        self.draw_conv((stage, place, "out"), channels, channels // 2, (1, 1, 1), bias=self.out_has_bias)
        self.draw_norm((stage, place, "out"), channels)
        if self.kind == "concatenation":
            self.state[self.weight((stage, place, "concat"))] = torch.randn(1, channels, 1, 1)

    def draw_conv(self, layer, outputs, inputs, kernel, bias=False):
        weight = torch.randn(outputs, inputs, *kernel)
        self.state[self.weight(layer)] = weight * weight[0].numel() ** -0.5
        if bias:
            self.state[self.bias(layer)] = torch.randn(outputs) * 0.3

    def draw_norm(self, layer, channels):
        for statistic in self.statistics:
            is_positive = statistic in ("weight", "running_var")
            value = torch.rand(channels) + 0.5 if is_positive else torch.randn(channels) * 0.3
            self.state[self.norm(layer, statistic)] = value

    def images(self):
        """The weights of the image network of a C2D."""
        return {key: value[:, :, 0] if value.dim() == 5 else value for key, value in self.state.items()}

    # --- forward pass

    def __call__(self, x):
        """Scores of clips of any size: the mean of the last map, then the last layer."""
        return self.last(self.features(x).mean((2, 3, 4)))

    def windows(self, x):
        """Class probabilities: of 7 x 7 positions each, then their mean."""
        maps = self.features(x)
        maps = F.avg_pool3d(maps, (maps.shape[2], 7, 7), stride=1)
        return self.last(maps.flatten(2).transpose(1, 2)).softmax(2).mean(1)

    def features(self, x):
        x = F.relu(self.normed("stem", self.convolved("stem", x, (2 if self.early else 1, 2, 2))))
        kernel = (self.early_pool if self.early else 1, 3, 3)
        stride = (2 if self.early else 1, 2, 2)
        x = F.max_pool3d(x, kernel, stride, (0, self.pads_pool1, self.pads_pool1))
        for stage, place in self.places():
            if (stage, place) == (3, 0):
                x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
            x = self.bottleneck(stage, place, x)
            if place in self.blocks.get(stage, ()):
                x = self.grouped_block(stage, place, x)
        return x

    def bottleneck(self, stage, place, x):
        stride = 2 if place == 0 and stage > 2 else 1
        y = x
        for branch, step in (("a", 1), ("b", stride), ("c", 1)):
            layer = (stage, place, branch)
            y = self.normed(layer, self.convolved(layer, y, (1, step, step)))
            y = y if branch == "c" else F.relu(y)
        if place == 0:
            layer = (stage, place, "short")
            x = self.normed(layer, self.convolved(layer, x, (1, stride, stride)))
        return F.relu(x + y)

    def grouped_block(self, stage, place, x):
        if self.group is None or stage != 3:
            return self.block(stage, place, x)
        return torch.cat([self.block(stage, place, part) for part in x.split(self.group, dim=2)], dim=2)

    def block(self, stage, place, x):
        layer = {name: (stage, place, name) for name in ("theta", "phi", "g", "out", "concat")}
        theta, phi, g = (part.flatten(2) for part in self.embedded(layer, x))
        if self.kind == "concatenation":
            w_f = self.get(self.weight(layer["concat"])).flatten()
            a, b = w_f[: theta.shape[1]] @ theta, w_f[theta.shape[1] :] @ phi
            f = F.relu(a[:, :, None] + b[:, None]) / phi.shape[2]
        else:
            f = theta.transpose(1, 2) @ phi
            if self.kind == "dot_product":
                f = f / phi.shape[2]
            else:
                f = F.softmax(f * theta.shape[1] ** -0.5 if self.scales else f, dim=2)
        y = (g @ f.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.normed(layer["out"], self.convolved(layer["out"], y))

    def embedded(self, layer, x):
        """Pool x, then embed."""
        pooled = F.max_pool3d(x, (1, 2, 2), (1, 2, 2))
        parts = (("theta", x), ("phi", pooled), ("g", pooled))
        return [self.convolved(layer[name], part) for name, part in parts]

    def convolved(self, layer, x, stride=(1, 1, 1)):
        weight = self.get(self.weight(layer))
        padding = [side // 2 for side in weight.shape[2:]]
        bias = self.get(self.bias(layer)) if self.bias(layer) in self.state else None
        return F.conv3d(x, weight, bias, stride, padding)

    def normed(self, layer, x):
        weight, bias, mean, variance = (
            self.get(self.norm(layer, name)) for name in ("weight", "bias", "running_mean", "running_var")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=EPS)

    def last(self, x):
        return F.linear(x, self.get(self.weight("fc")), self.get(self.bias("fc")))

    def get(self, key):
        return self.state[key].double()


class Official(ForeignNetwork):
    """video-nonlocal-net: blobs of Caffe2."""

    pads_pool1 = 0

    def __init__(self, *, frozen=False, **settings):
        self.frozen = frozen
        if frozen:
            self.statistics = ("weight", "bias")
        super().__init__(**settings)

    def name(self, layer):
        if layer in ("stem", "fc"):
            return {"stem": "conv1", "fc": "pred"}[layer]
        stage, place, name = layer
        if name in ("theta", "phi", "g", "out"):
            return f"nonlocal_conv{stage}_{place}_{name}"
        return f"res{stage}_{place}_" + ("branch1" if name == "short" else f"branch2{name}")

    def weight(self, layer):
        return f"{self.name(layer)}_w"

    def bias(self, layer):
        return f"{self.name(layer)}_b"

    def norm(self, layer, statistic):
        short = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}[statistic]
        if layer == "stem":
            return f"res_conv1_bn_{short}"
        if layer[2] == "out":
            return f"nonlocal_conv{layer[0]}_{layer[1]}_bn_{short}"
        return f"{self.name(layer)}_bn_{short}"

    def draw_norm(self, layer, channels):
        # Networks with frozen norms have none in their blocks.
        if not (self.frozen and layer[-1] == "out"):
            super().draw_norm(layer, channels)

    def normed(self, layer, x):
        if not self.frozen:
            return super().normed(layer, x)
        if layer[-1] == "out":
            return x
        s, b = (self.get(self.norm(layer, name)).view(-1, 1, 1, 1) for name in ("weight", "bias"))
        return x * s + b


class SlowFast(ForeignNetwork):
    """SlowFast's C2D and I3D."""

    def name(self, layer, conv):
        if layer in ("stem", "fc"):
            inside = "conv" if conv else "bn"
            return {"stem": f"s1.pathway0_stem.{inside}", "fc": "head.projection"}[layer]
        stage, place, name = layer
        if name in ("theta", "phi", "g", "out"):
            return f"s{stage}.pathway0_nonlocal{place}." + (f"conv_{name}" if conv else "bn")
        branch = "branch1" if name == "short" else f"branch2.{name}"
        return f"s{stage}.pathway0_res{place}.{branch}" + ("" if conv else "_bn")

    def weight(self, layer):
        return f"{self.name(layer, True)}.weight"

    def bias(self, layer):
        return f"{self.name(layer, True)}.bias"

    def norm(self, layer, statistic):
        return f"{self.name(layer, False)}.{statistic}"


class MMAction2(ForeignNetwork):
    """mmaction2's I3D."""

    scales = False
    early_pool = 1
    out_has_bias = False

    def __init__(self, *, sub_sample=True, early=True, **settings):
        self.sub_sample = sub_sample
        super().__init__(early=early, **settings)

    def name(self, layer, inside):
        if layer in ("stem", "fc"):
            return {"stem": f"backbone.conv1.{inside}", "fc": "cls_head.fc_cls"}[layer]
        stage, place, name = layer
        bottleneck = f"backbone.layer{stage - 1}.{place}"
        if name in ("theta", "phi", "g", "out", "concat"):
            pooled = ".0" if self.sub_sample and name in ("phi", "g") else ""
            full = {"out": "conv_out", "concat": "concat_project"}.get(name, name)
            return f"{bottleneck}.non_local_block.{full}{pooled}.{inside}"
        full = {"a": "conv1", "b": "conv2", "c": "conv3", "short": "downsample"}[name]
        return f"{bottleneck}.{full}.{inside}"

    def weight(self, layer):
        return f"{self.name(layer, 'conv')}.weight"

    def bias(self, layer):
        return f"{self.name(layer, 'conv')}.bias"

    def norm(self, layer, statistic):
        return f"{self.name(layer, 'bn')}.{statistic}"

    def embedded(self, layer, x):
        """Embed, then pool."""

        def pooled(y):
            return F.max_pool3d(y, (1, 2, 2), (1, 2, 2)) if self.sub_sample else y

        g = pooled(self.convolved(layer["g"], x))
        if self.kind == "gaussian":
            return x, pooled(x), g
        return self.convolved(layer["theta"], x), pooled(self.convolved(layer["phi"], x)), g
