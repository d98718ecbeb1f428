"""Self-attention modules of other libraries, rebuilt from the facts known of them.

Names of layers and attributes, widths, scale, norm and what `forward` takes are theirs; the arithmetic is
written here, straight from the equations.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm

WIDTH = 16


def attend(queries, keys, values, *, heads=1, scale=1.0):
    """Softmax attention of maps (B, D, N), each head with its slice of the channels."""
    queries, keys, values = (part.flatten(2).unflatten(1, (heads, -1)) for part in (queries, keys, values))
    weights = (scale * torch.einsum("bhdn,bhdm->bhnm", queries, keys)).softmax(3)
    return torch.einsum("bhnm,bhem->bhen", weights, values).flatten(1, 2)


def over_channels(layer, x):
    """A linear layer applied to the channels of (B, C, N)."""
    return layer(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """diffusers', as the middle of its VAEs holds it: called with the embedding of the time."""

    def __init__(self, heads=1, residual_connection=True, rescale_output_factor=1.0, spatial_norm=None):
        super().__init__()
        self.heads, self.scale = heads, (WIDTH // heads) ** -0.5
        self.residual_connection, self.rescale_output_factor = residual_connection, rescale_output_factor
        self.group_norm, self.spatial_norm = nn.GroupNorm(4, WIDTH, eps=1e-6), spatial_norm
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0)])

    def forward(self, hidden_states, encoder_hidden_states=None, attention_mask=None, **more):
        return self.process(hidden_states, encoder_hidden_states, attention_mask, **more)

    def process(self, x, context=None, mask=None, temb=None):
        normal = self.group_norm(x.flatten(2)).transpose(1, 2)
        keys = normal if context is None else context
        q, k, v = self.to_q(normal), self.to_k(keys), self.to_v(keys)
        y = attend(*(part.transpose(1, 2) for part in (q, k, v)), heads=self.heads, scale=self.scale)
        for layer in self.to_out:
            y = over_channels(layer, y)
        y = y.view_as(x) if mask is None else y.view_as(x) * mask
        return (y + x if self.residual_connection else y) / self.rescale_output_factor


class MidBlock(nn.Module):
    """What owns it there, and how it calls it."""

    def __init__(self, attention):
        super().__init__()
        self.attentions = nn.ModuleList([attention])
        self.resnet = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, hidden_states, temb=None):
        return self.resnet(self.attentions[0](hidden_states, temb=temb))


class AttnBlock(nn.Module):
    """That of the first latent diffusion code, and of VQGAN."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(8, WIDTH, eps=1e-6, affine=True)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        y = attend(self.q(h), self.k(h), self.v(h), scale=WIDTH**-0.5)
        return x + self.proj_out(y.view_as(x))


class NIN(nn.Module):
    """A linear layer over channels by a matrix W (in, out)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.W = nn.Parameter(torch.randn(inputs, outputs))
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.einsum("bc...,cd->bd...", x, self.W) + self.b.view(-1, 1, 1)


class AttnBlockpp(nn.Module):
    """That of score-based models; a rescaled sum is no sum of ours."""

    def __init__(self, skip_rescale=False):
        super().__init__()
        self.GroupNorm_0, self.skip_rescale = nn.GroupNorm(4, WIDTH, eps=1e-6), skip_rescale
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (NIN(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        h = self.GroupNorm_0(x)
        y = attend(self.NIN_0(h), self.NIN_1(h), self.NIN_2(h), scale=WIDTH**-0.5)
        z = x + self.NIN_3(y.view_as(x))
        return z / 2**0.5 if self.skip_rescale else z


class AttentionBlock(nn.Module):
    """Guided diffusion's: one layer for all three, in either order of the heads, on flattened maps."""

    def __init__(self, num_heads=4, heads_first=True):
        super().__init__()
        self.num_heads, self.heads_first = num_heads, heads_first
        self.norm = nn.GroupNorm(8, WIDTH)
        self.qkv, self.proj_out = nn.Conv1d(WIDTH, 3 * WIDTH, 1), nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x):
        made = self.qkv(self.norm(x.flatten(2)))
        if self.heads_first:
            made = made.unflatten(1, (self.num_heads, 3, -1)).transpose(1, 2).flatten(1, 3)
        q, k, v = made.chunk(3, dim=1)
        y = attend(q, k, v, heads=self.num_heads, scale=(WIDTH // self.num_heads) ** -0.5)
        return x + self.proj_out(y).view_as(x)


class SABlock(nn.Module):
    def __init__(self, num_heads, combined, include_fc):
        super().__init__()
        self.num_heads, self.combined = num_heads, combined
        self.out_proj = nn.Linear(WIDTH, WIDTH) if include_fc else nn.Identity()
        if combined:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
            self.to_q = self.to_k = self.to_v = nn.Identity()
        else:
            self.qkv = nn.Identity()
            self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.drop_output, self.drop_weights = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, tokens):
        q, k, v = (
            self.qkv(tokens).chunk(3, dim=2)
            if self.combined
            else (self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        )
        maps = (part.transpose(1, 2) for part in (q, k, v))
        y = attend(*maps, heads=self.num_heads, scale=(WIDTH // self.num_heads) ** -0.5)
        return self.drop_output(self.out_proj(y.transpose(1, 2)))


class SpatialAttentionBlock(nn.Module):
    """MONAI's: linear layers on maps of any rank."""

    def __init__(self, spatial_dims=2, num_heads=1, combined=False, include_fc=True):
        super().__init__()
        self.spatial_dims = spatial_dims
        self.norm = nn.GroupNorm(4, WIDTH, eps=1e-6)
        self.attn = SABlock(num_heads, combined, include_fc)

    def forward(self, x):
        return self.attn(self.norm(x).flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape) + x


class SelfAttention(nn.Module):
    """SAGAN's by its usual names, and DANet's position attention, whose values are C wide."""

    def __init__(self, normed=lambda layer: layer, values=WIDTH, transposed=False):
        super().__init__()
        self.query_conv, self.key_conv = (normed(nn.Conv2d(WIDTH, WIDTH // 8, 1)) for _ in range(2))
        self.value_conv, self.transposed = normed(nn.Conv2d(WIDTH, values, 1)), transposed
        self.gamma, self.softmax = nn.Parameter(torch.zeros(1)), nn.Softmax(dim=-1)
        if values != WIDTH:
            self.out_conv = normed(nn.Conv2d(values, WIDTH, 1))

    def forward(self, x):
        q, k = self.query_conv(x), self.key_conv(x)
        y = attend(*((k, q) if self.transposed else (q, k)), self.value_conv(x)).view(
            len(x), -1, *x.shape[2:]
        )
        return self.gamma * (self.out_conv(y) if hasattr(self, "out_conv") else y) + x


class SNConv2d(nn.Conv2d):
    """BigGAN's: it divides its weight by the largest singular value as it is called."""

    def __init__(self, *sizes, **settings):
        super().__init__(*sizes, **settings)
        self.register_buffer("u0", torch.randn(1, self.out_channels))

    def forward(self, x):
        matrix = self.weight.flatten(1)
        v = F.normalize(self.u0 @ matrix)
        u = F.normalize(v @ matrix.T)
        if self.training:
            self.u0.copy_(u.detach())
        return F.conv2d(x, self.weight / (v @ matrix.T @ u.T).squeeze(), self.bias)


class BigGANAttention(nn.Module):
    """BigGAN's: pooled keys by a function; its owner passes the class on, which it does not use."""

    def __init__(self, which_conv=nn.Conv2d):
        super().__init__()
        self.theta, self.phi = (which_conv(WIDTH, WIDTH // 8, 1, bias=False) for _ in range(2))
        self.g, self.o = (
            which_conv(*sizes, 1, bias=False) for sizes in ((WIDTH, WIDTH // 2), (WIDTH // 2, WIDTH))
        )
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, y=None):
        keys, values = (F.max_pool2d(layer(x), [2, 2]) for layer in (self.phi, self.g))
        out = attend(self.theta(x), keys, values)
        return self.gamma * self.o(out.view(len(x), -1, *x.shape[2:])) + x


class FlatSelfAttention(nn.Module):
    """fastai's: 1D convolutions without bias on flattened maps; the softmax is over the queries."""

    def __init__(self, normed=spectral_norm):
        super().__init__()
        self.query, self.key, self.value = (
            nn.Sequential(normed(nn.Conv1d(WIDTH, width, 1, bias=False)))
            for width in (WIDTH // 8, WIDTH // 8, WIDTH)
        )
        self.gamma = nn.Parameter(torch.tensor([0.0]))

    def forward(self, x):
        flat = x.flatten(2)
        f, g, h = self.query(flat), self.key(flat), self.value(flat)
        weights = F.softmax(f.transpose(1, 2) @ g, dim=1)
        return (self.gamma * (h @ weights) + flat).view(*x.shape).contiguous()


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return x * self.scale


class PAM(nn.Module):
    """mmseg's position attention."""

    def __init__(self):
        super().__init__()
        self.key_project, self.query_project = (nn.Conv2d(WIDTH, 4, 1) for _ in range(2))
        self.value_project, self.gamma = nn.Conv2d(WIDTH, WIDTH, 1), Scale()
        self.out_project = None

    def forward(self, x):
        y = attend(self.query_project(x), self.key_project(x), self.value_project(x))
        return self.gamma(y.view_as(x)) + x


class KerasStyle(nn.Module):
    """Three embeddings and an output without norm: unscaled softmax or dot product."""

    def __init__(self, mode="embedded", output="conv_out", pool=None):
        super().__init__()
        self.kind = mode
        self.theta, self.phi, self.g = (nn.Conv2d(WIDTH, WIDTH // 2, 1, bias=False) for _ in range(3))
        self.add_module(output, nn.Conv2d(WIDTH // 2, WIDTH, 1, bias=False))
        self.output, self.pool = output, pool

    def forward(self, x):
        keys, values = self.phi(x), self.g(x)
        if self.pool is not None:
            keys, values = self.pool(keys), self.pool(values)
        if self.kind == "embedded":
            y = attend(self.theta(x), keys, values)
        else:
            pairs = torch.einsum("bdn,bdm->bnm", self.theta(x).flatten(2), keys.flatten(2))
            y = torch.einsum("bnm,bem->ben", pairs / pairs.shape[2], values.flatten(2))
        return self.get_submodule(self.output)(y.view(len(x), -1, *x.shape[2:])) + x


class PositionAttention(nn.Module):
    """Names that nobody knows, in an order that nobody expects, and a norm at the end."""

    def __init__(self):
        super().__init__()
        self.last, self.conv_d = nn.Conv2d(WIDTH // 2, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH // 2, 1)
        self.conv_b, self.conv_c = (nn.Conv2d(WIDTH, WIDTH // 4, 1) for _ in range(2))
        self.bn, self.beta = nn.BatchNorm2d(WIDTH), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        y = attend(self.conv_b(x), self.conv_c(x), self.conv_d(x), scale=(WIDTH // 4) ** -0.5)
        return self.bn(self.beta * self.last(y.view(len(x), -1, *x.shape[2:]))) + x


class FusedAttention(nn.Module):
    """One layer for all three under another name, and values that are the output."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.project = 2, nn.Conv2d(WIDTH, 3 * WIDTH, 1)

    def forward(self, x):
        return x + attend(*self.project(x).chunk(3, dim=1), heads=2).view_as(x)


# By what the report calls their library, and the kind: what to make, and the rank of its maps.
KINDS = {
    ("diffusers", "Attention"): (Attention, 2),
    ("diffusers", "Attention, 4 heads"): (lambda: Attention(heads=4), 2),
    ("VAE", "AttnBlock"): (AttnBlock, 2),
    ("DDPM", "AttnBlockpp"): (AttnBlockpp, 2),
    ("guided diffusion", "heads, then q, k, v"): (AttentionBlock, 2),
    ("guided diffusion", "q, k, v, then heads"): (lambda: AttentionBlock(heads_first=False), 2),
    ("MONAI", "1D"): (lambda: SpatialAttentionBlock(1), 1),
    ("MONAI", "2D, 4 heads, one layer"): (lambda: SpatialAttentionBlock(2, 4, combined=True), 2),
    ("MONAI", "3D, 2 heads"): (lambda: SpatialAttentionBlock(3, 2), 3),
    ("MONAI", "no last layer"): (lambda: SpatialAttentionBlock(include_fc=False), 2),
    ("SAGAN", "values C, as DANet's"): (SelfAttention, 2),
    ("SAGAN", "values C / 2"): (lambda: SelfAttention(values=WIDTH // 2), 2),
    ("SAGAN", "softmax over the queries"): (lambda: SelfAttention(transposed=True), 2),
    ("SAGAN", "spectral norm"): (lambda: SelfAttention(spectral_norm, WIDTH // 2), 2),
    ("SAGAN", "old spectral norm"): (lambda: SelfAttention(old_spectral_norm, WIDTH // 2), 2),
    ("BigGAN", "pooled keys"): (BigGANAttention, 2),
    ("BigGAN", "pooled keys, its spectral norm"): (lambda: BigGANAttention(SNConv2d), 2),
    ("fastai", "SelfAttention"): (FlatSelfAttention, 2),
    ("fastai", "without spectral norm"): (lambda: FlatSelfAttention(lambda layer: layer), 2),
    ("mmseg", "PAM"): (PAM, 2),
    ("custom", "unknown names, batch norm"): (PositionAttention, 2),
    ("custom", "unknown name of one layer"): (FusedAttention, 2),
    ("Keras", "softmax"): (KerasStyle, 2),
    ("Keras", "dot product"): (lambda: KerasStyle("dot"), 2),
    ("Keras", "window of 3"): (lambda: KerasStyle(pool=nn.MaxPool2d(3)), 2),
}
