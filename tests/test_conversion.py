"""Modules of other libraries become ours and compute the same; what would not is left with a reason.

``python tests/test_conversion.py`` prints the table of docs/guides/conversion.md.
"""

import copy
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import foreign_blocks
import nonlocalnn as nl
from alexhex7 import TheirNetwork, randomized
from foreign_blocks import CASES, ConvModule, Nonlocal, NonLocalAttn, alexhex7, mmcv, pytorchvideo
from helpers import BLOCKS, SIDES, left, randomize_
from tolerances import NETWORK, assert_near

GUIDE = Path(__file__).resolve().parent.parent / "docs/guides/conversion.md"
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def example(dimension, dtype=torch.float32):
    return torch.randn(2, 6, *SIDES[dimension], dtype=dtype)


def converted(model):
    """Convert a copy, of which nothing may be left."""
    model = copy.deepcopy(model)
    report = nl.convert_nonlocal_(model)
    assert not report.left
    return model, report


def step(model, x):
    """Return z in train mode, the gradient of x and the statistics after it, by our names."""
    x = x.clone().requires_grad_()
    z = model.train()(x)
    (z * torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z)).sum().backward()
    return z, x.grad, {name.rpartition(".")[2]: value for name, value in model.named_buffers()}


# Equal in every setting


@every_case
def test_outputs_gradients_and_statistics_stay(case):
    theirs = nn.Sequential(case.build())
    ours, report = converted(theirs)
    x = example(case.dimension)
    with torch.no_grad():
        before, after = theirs.eval()(x), ours.eval()(x)
    assert (before - x).abs().max() > 0.1  # not the identity, which would hide any error
    assert_near(after, before)
    (z, dx, statistics), expected = step(ours, x), step(theirs, x)
    assert_near(z, expected[0])
    assert_near(dx, expected[1], sums=NETWORK)
    assert_near(statistics, expected[2])
    assert (len(statistics) == 3) is ("norm" in case.column)
    settings = report.converted["0"].settings
    assert settings["instantiation"] == case.ours
    # What is as usual is not among them.
    assert not {"num_heads", "pre_norm", "value_channels"} & settings.keys()
    assert report.converted["0"].source == case.source
    assert type(ours[0]) is BLOCKS[case.dimension]


@every_case
def test_equal_to_the_last_digits_in_float64(case):
    theirs = nn.Sequential(case.build()).double()
    ours, _ = converted(theirs)
    x = example(case.dimension, torch.float64)
    for mode in (False, True):
        assert_near(ours.train(mode)(x), theirs.train(mode)(x))
    theirs_step, ours_step = step(theirs, x), step(ours, x)
    assert_near(ours_step[1], theirs_step[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_kept(dtype):
    theirs = nn.Sequential(alexhex7("embedded_gaussian", 2)).to(dtype)
    with torch.no_grad():
        for value in theirs.parameters():
            value.normal_(0, 0.2)
    ours, _ = converted(theirs)
    assert {value.dtype for value in ours.state_dict().values()} == {dtype, torch.int64}
    x = example(2, dtype)
    before, after = theirs.eval()(x), ours.eval()(x)
    assert after.dtype == dtype
    assert_near(after, before)


# What is carried


def test_parameters_and_statistics_are_the_same_objects():
    theirs = alexhex7("dot_product", 3)
    theirs.theta.weight.requires_grad_(False)
    model = nn.Sequential(theirs)
    nl.convert_nonlocal_(model)
    ours = model[0]
    assert ours.theta.weight is theirs.theta.weight
    assert not ours.theta.weight.requires_grad
    assert ours.phi.bias is theirs.phi[0].bias
    assert ours.norm is theirs.W[1]
    assert all(parameter.device.type == "cpu" for parameter in ours.parameters())


@pytest.mark.parametrize("frozen_norm", [False, True], ids=["", "frozen_norm"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_modes_are_kept(training, frozen_norm):
    theirs = randomize_(alexhex7("gaussian", 1)).train(training)
    if frozen_norm:
        theirs.W[1].eval()
    model = nn.Sequential(theirs)
    model.training = not training
    ours, _ = converted(model)
    assert ours.training is not training
    assert {part.training for name, part in ours[0].named_modules() if name != "norm"} == {training}
    assert ours[0].norm.training is (training and not frozen_norm)
    x = example(1)
    assert_near(ours(x), model(x))


def test_a_missing_bias_becomes_a_zero_that_is_not_trained():
    theirs = nn.Sequential(randomize_(mmcv("dot_product", 2, norm=True)))
    ours, _ = converted(theirs)
    assert ours[0].W_z.bias.count_nonzero() == 0
    assert not ours[0].W_z.bias.requires_grad
    assert ours[0].theta.bias.requires_grad


def test_training_goes_on_as_before():
    # Without a norm a bias that is new and trained would change the next output.
    theirs = mmcv("embedded_gaussian", 1, norm=True, sub_sample=True)
    theirs.conv_out = ConvModule(theirs.conv_out.conv)
    theirs = nn.Sequential(randomize_(theirs)).double()
    ours, _ = converted(theirs)
    x = example(1, torch.float64)
    for model in (theirs, ours):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert_near(ours(x), theirs(x))


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": 0.3, "momentum": 0.7},
        {"momentum": None},
        {"affine": False, "eps": 0.2},
        {"track_running_stats": False},
        {"affine": False, "track_running_stats": False},
    ],
    ids=str,
)
def test_settings_of_the_norm_are_kept(settings):
    theirs = alexhex7("embedded_gaussian", 2)
    theirs.W[1] = nn.BatchNorm2d(6, **settings)
    theirs = nn.Sequential(randomize_(theirs))
    ours, _ = converted(theirs)
    x = example(2)
    for mode in (True, False, True):
        assert_near(ours.train(mode)(x), theirs.train(mode)(x))
    assert set(ours[0].norm.state_dict()) >= {"weight", "bias"}
    trained = {name for name, value in ours[0].norm.named_parameters() if value.requires_grad}
    assert trained == ({"weight", "bias"} if settings.get("affine", True) else set())
    theirs.train()[0].W[1].eval()
    assert not converted(theirs)[0][0].norm.training


def test_a_synchronised_norm_stays_one():
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(randomize_(alexhex7("gaussian", 2))))
    ours, _ = converted(theirs)
    assert isinstance(ours[0].norm, nn.SyncBatchNorm)
    x = example(2)
    assert_near(ours.eval()(x), theirs.eval()(x))
    bare = alexhex7("gaussian", 2)
    bare.W[1] = nn.SyncBatchNorm(6, affine=False)
    assert "synchronised" in left(bare)


def test_a_synchronised_norm_waits_for_no_other_process(monkeypatch):
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(alexhex7("gaussian", 2)))
    # Then PyTorch's refuses to run in train mode on the CPU, where the copy runs.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    converted(theirs)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_new_parameters_are_trained_where_theirs_were(trained):
    theirs = nn.Sequential(NonLocalAttn(6), alexhex7("concatenation", 2)).requires_grad_(trained)
    ours, _ = converted(theirs)
    assert {parameter.requires_grad for parameter in ours.parameters()} == {trained}


def test_a_scale_by_other_channels_goes_into_theta():
    ours, report = converted(nn.Sequential(randomize_(NonLocalAttn(6, rd_channels=4))))
    assert report.converted["0"].settings["use_scale"]
    theirs = NonLocalAttn(6, rd_channels=6)  # as wide inside as outside: nothing to fold
    ours = nn.Sequential(theirs)
    nl.convert_nonlocal_(ours)
    assert ours[0].theta.weight is theirs.t.weight


def test_on_the_meta_device_only_shapes_are_carried():
    with torch.device("meta"):
        model = nn.Sequential(alexhex7("concatenation", 3), NonLocalAttn(6))
    assert set(nl.convert_nonlocal_(model).converted) == {"0", "1"}
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


# Where it stands


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.listed = nn.ModuleList([alexhex7("dot_product", 2), nn.Conv2d(6, 6, 1)])
        self.named = nn.ModuleDict({"a": mmcv("gaussian", 2), "b": NonLocalAttn(6)})
        self.deep = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Sequential(alexhex7("concatenation", 2))))

    def forward(self, x):
        for layer in (*self.listed, *self.named.values(), self.deep):
            x = layer(x) / 4
        return x


def test_it_is_found_in_every_container():
    theirs = randomize_(Owner())
    ours, report = converted(theirs)
    assert list(report.converted) == ["listed.0", "named.a", "named.b", "deep.0.1.0"]
    assert list(ours.named.keys()) == ["a", "b"]
    x = example(2)
    assert_near(ours.eval()(x), theirs.eval()(x))


def test_a_shared_module_becomes_one_shared_block():
    shared = randomize_(alexhex7("embedded_gaussian", 2))
    inner = nn.Sequential(shared, nn.Tanh())
    theirs = nn.ModuleDict({"one": shared, "two": inner, "three": inner})
    ours, report = converted(theirs)
    assert list(report.converted) == ["one", "two.0", "three.0"]
    assert ours["one"] is ours["two"][0]
    assert ours["two"] is ours["three"]
    x = example(2)
    assert_near(ours["three"](ours["one"](x)), inner(shared(x)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_torchscript_has_compiled_is_refused_or_passed_over():
    traced = torch.jit.trace(nn.Conv2d(3, 8, 1).eval(), torch.rand(1, 3, 6, 6))
    with pytest.raises(ValueError, match="convert before tracing or scripting"):
        nl.convert_nonlocal_(traced)
    assert not nl.convert_nonlocal_(nn.Sequential(traced, nn.ReLU())).converted


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")
def test_blocks_that_torchscript_has_compiled_are_listed():
    x = torch.rand(2, 6, 8, 8)
    theirs = torch.jit.trace(alexhex7("dot_product", 2).eval(), x)
    ours = torch.jit.trace(nl.NonLocal2d(6).eval(), x)
    report = nl.convert_nonlocal_(nn.Sequential(theirs, ours, torch.jit.trace(nn.Conv2d(6, 6, 1).eval(), x)))
    reason = "TorchScript has fixed its forward pass: convert before tracing or scripting"
    assert report.left == {"0": reason}


def test_the_model_itself_cannot_be_replaced():
    model = alexhex7("dot_product", 2)
    with pytest.raises(ValueError, match=r"NONLocalBlock2D.*torch.nn.Sequential"):
        nl.convert_nonlocal_(model)
    assert isinstance(model.theta, nn.Conv2d)
    report = nl.convert_nonlocal_(changed(Nonlocal(6, 4), norm=nn.InstanceNorm3d(6)))
    assert "InstanceNorm" in report.left[""]


def test_a_model_without_any_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nl.NonLocal2d(8))
    block = model[1]
    report = nl.convert_nonlocal_(model)
    assert (report.converted, report.left) == ({}, {})
    assert str(report) == "no non-local modules of other libraries"
    assert model[1] is block


def test_a_second_call_finds_nothing():
    model = Owner()
    assert len(nl.convert_nonlocal_(model).converted) == 4
    assert not nl.convert_nonlocal_(model).converted


def test_random_numbers_are_not_spent():
    model = Owner()
    before = torch.get_rng_state()
    nl.convert_nonlocal_(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_whole_network_keeps_its_classes_and_maps():
    theirs = randomized("dot_product")
    ours, report = converted(theirs)
    assert [each.settings["instantiation"] for each in report.converted.values()] == ["dot_product"] * 2
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad(), nl.capture_affinity(ours) as maps:
        assert_near(ours(x), theirs(x), sums=NETWORK)
    for name, expected in zip(("nl_1", "nl_2"), theirs.maps(x), strict=True):
        assert_near(maps[name].affinity, expected, sums=NETWORK)


@pytest.mark.parametrize("kind", foreign_blocks.KINDS)
def test_kinds_are_told_apart_in_fresh_modules(kind):
    # Fresh modules are the identity whatever they compute: only random weights tell.
    _, report = converted(TheirNetwork(kind))
    assert {each.settings["instantiation"] for each in report.converted.values()} == {kind}


def test_the_state_dict_is_ours(tmp_path):
    theirs = nn.Sequential(*(randomize_(alexhex7(kind, 2)) for kind in foreign_blocks.KINDS))
    ours, report = converted(theirs)
    nl.save_checkpoint(ours, tmp_path / "ours.safetensors")
    fresh = nn.Sequential(*(nl.NonLocal2d(**each.settings) for each in report.converted.values()))
    nl.load_checkpoint(tmp_path / "ours.safetensors", fresh)
    x = example(2)
    assert_near(fresh.eval()(x), theirs.eval()(x), sums=NETWORK)


def test_a_converted_block_can_be_fused():
    theirs = nn.Sequential(randomize_(mmcv("embedded_gaussian", 3, sub_sample=True))).eval()
    ours, _ = converted(theirs)
    x = example(3)
    assert_near(nl.fuse_(ours)(x), theirs(x))


def test_the_report_is_a_table():
    model = nn.ModuleDict({"nl": mmcv("dot_product", 2, sub_sample=True), "layer": Sharper(6)})
    first, second = str(nl.convert_nonlocal_(model)).splitlines()
    assert first == (
        "nl     mmcv NonLocal2d -> NonLocal2d(in_channels=6, inter_channels=3, instantiation='dot_product', "
        "sub_sample='after', use_scale=False, norm='batch')"
    )
    assert second.startswith("layer  left: it has the layers of 'embedded_gaussian'")


# The libraries themselves


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("sub_sample", [True, False], ids=["pool", "all"])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "bare"])
@pytest.mark.parametrize("kind", foreign_blocks.KINDS)
def test_mmcv_itself(kind, norm, sub_sample, dimension):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cnn = pytest.importorskip("mmcv.cnn")
    norm_cfg = {"type": f"BN{dimension}d"} if norm else None
    make = getattr(cnn, f"NonLocal{dimension}d")
    theirs = nn.Sequential(randomize_(make(6, mode=kind, sub_sample=sub_sample, norm_cfg=norm_cfg)))
    ours, report = converted(theirs)
    assert report.converted["0"].source == "mmcv"
    x = example(dimension)
    for mode in (False, True):
        assert_near(ours.train(mode)(x), theirs.train(mode)(x))


@pytest.mark.parametrize("use_scale", [True, False], ids=["scaled", "plain"])
def test_timm_itself(use_scale):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attention = pytest.importorskip("timm.layers.non_local_attn")
    theirs = nn.Sequential(randomize_(attention.NonLocalAttn(6, use_scale=use_scale, rd_channels=4)))
    ours, report = converted(theirs)
    assert report.converted["0"].source == "timm"
    x = example(2)
    for mode in (False, True):
        assert_near(ours.train(mode)(x), theirs.train(mode)(x))


# What is left, and why


def changed(module, **attributes):
    """Return the module with attributes, or layers of its layers, exchanged."""
    for path, value in attributes.items():
        owner, _, last = path.replace("__", ".").rpartition(".")
        setattr(module.get_submodule(owner), last, value)
    return module


def with_hook(module):
    module.get_submodule("W.0").register_forward_hook(lambda *_: None)
    return module


class Sharper(foreign_blocks._NonLocalBlockND):
    """Its layers are those of the embedded Gaussian; its softmax is not."""

    kind, dimension = "embedded_gaussian", 2

    def forward(self, x):
        affinity = foreign_blocks.weights("embedded_gaussian", self.theta(x), self.phi(x), scale=1.05)
        return self.W(foreign_blocks.averaged(affinity, self.g(x), x)) + x


class Dropping(foreign_blocks._NonLocalBlockND):
    """The same in eval mode only."""

    kind, dimension = "dot_product", 2

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, training=self.training))


class Pair(foreign_blocks._NonLocalBlockND):
    kind, dimension = "gaussian", 2

    def forward(self, x):
        return super().forward(x, return_nl_map=True)


class Broken(foreign_blocks._NonLocalBlockND):
    kind, dimension = "gaussian", 2

    def forward(self, x):
        return self.not_there(x)


class Uncopied(Sharper):
    def __deepcopy__(self, memo):
        raise RuntimeError("not today")


def weight_normed(module):
    nn.utils.parametrizations.weight_norm(module.theta)
    return module


LEFT = {
    "another softmax": (lambda: Sharper(6), "computes something else"),
    "dropout": (lambda: Dropping(6), "computes something else"),
    "two outputs": (lambda: Pair(6), "does not return one map"),
    "a forward that fails": (lambda: Broken(6), r"fails on an input of shape \(2, 6, 5, 7\)"),
    "no copy": (lambda: Uncopied(6), "cannot be copied: not today"),
    "hooks": (lambda: with_hook(alexhex7("gaussian", 2)), "hooks"),
    "weight norm in training": (
        lambda: weight_normed(alexhex7("dot_product", 2)),
        r"theta are computed from others.*call eval\(\)",
    ),
    "more layers": (lambda: changed(mmcv("dot_product", 2), conv_mask=nn.Conv2d(6, 1, 1)), "conv_mask"),
    "two norms": (
        lambda: changed(alexhex7("gaussian", 2), W__1=nn.Sequential(nn.BatchNorm2d(6), nn.BatchNorm2d(6))),
        "one batch or group norm",
    ),
    "instance norm": (lambda: changed(alexhex7("gaussian", 2), W__1=nn.InstanceNorm2d(6)), "InstanceNorm"),
    "mean pool": (lambda: changed(alexhex7("gaussian", 2), g__1=nn.AvgPool2d(2)), "max-pooled only"),
    "ceiling": (
        lambda: changed(alexhex7("gaussian", 2), phi=nn.MaxPool2d(2, ceil_mode=True)),
        "max-pools by windows side by side",
    ),
    "stride": (
        lambda: changed(alexhex7("gaussian", 2), phi=nn.MaxPool2d(2, stride=1)),
        "max-pools by windows side by side",
    ),
    "padded pool": (
        lambda: changed(alexhex7("gaussian", 2), phi=nn.MaxPool2d(2, padding=1)),
        "max-pools by windows side by side",
    ),
    "two pools": (
        lambda: changed(alexhex7("gaussian", 2), phi=nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2))),
        "pooled once",
    ),
    "phi alone pooled": (
        lambda: changed(alexhex7("gaussian", 2), g=nn.Conv2d(6, 3, 1)),
        "only one of phi and g",
    ),
    "3x3": (
        lambda: changed(alexhex7("dot_product", 2), theta=nn.Conv2d(6, 3, 3, padding=1)),
        "1x1 without stride",
    ),
    "groups": (lambda: changed(alexhex7("dot_product", 2), theta=nn.Conv2d(6, 3, 1, groups=3)), "groups"),
    "linear": (
        lambda: changed(pytorchvideo("softmax", 3, pool=True, norm=True), conv_g=nn.Linear(6, 4)),
        "Linear",
    ),
    "activation": (
        lambda: changed(alexhex7("dot_product", 2), theta=nn.Sequential(nn.Conv2d(6, 3, 1), nn.ReLU())),
        "goes on with",
    ),
    "widths": (lambda: changed(alexhex7("dot_product", 2), theta=nn.Conv2d(6, 2, 1)), "phi does not fit"),
    "ranks": (lambda: changed(alexhex7("dot_product", 2), theta=nn.Conv1d(6, 3, 1)), "theta does not fit"),
    "another width after": (lambda: changed(NonLocalAttn(6), z=nn.Conv2d(4, 8, 1)), "W_z does not fit"),
    "another width after no theta": (
        lambda: changed(alexhex7("gaussian", 2), W__0=nn.Conv2d(4, 6, 1)),
        "W_z does not fit",
    ),
    "norm's width": (lambda: changed(NonLocalAttn(6), norm=nn.BatchNorm2d(8)), "norm must be of 6 channels"),
    "tensor scale": (lambda: changed(NonLocalAttn(6), scale=torch.ones(1)), "scale must be a number"),
    "unknown mode": (lambda: changed(mmcv("dot_product", 2), mode="cosine"), "mode must be one of"),
    "mode and layers": (lambda: changed(mmcv("dot_product", 2), mode="gaussian"), "mode is 'gaussian'"),
    "unknown instantiation": (
        lambda: changed(Nonlocal(6, 4), instantiation="sigmoid"),
        "'softmax' or 'dot_product'; it is 'sigmoid'",
    ),
    "bias of concatenation": (
        lambda: changed(alexhex7("concatenation", 2), concat_project__0=nn.Conv2d(6, 1, 1)),
        "without bias",
    ),
    "no ReLU": (
        lambda: changed(alexhex7("concatenation", 2), concat_project__1=nn.Tanh()),
        "then a ReLU",
    ),
    "width of concatenation": (
        lambda: changed(alexhex7("concatenation", 2), concat_project__0=nn.Conv2d(5, 1, 1, bias=False)),
        "must take 6 channels",
    ),
    "concatenation of nothing": (
        lambda: changed(alexhex7("concatenation", 2), theta=None, phi=nn.MaxPool2d(2)),
        "has no theta",
    ),
    "nothing of it": (lambda: type("NONLocalBlock2D", (nn.Module,), {})(), r"layers \(none\)"),
}


@pytest.mark.parametrize(("make", "reason"), LEFT.values(), ids=[name.replace(" ", "_") for name in LEFT])
def test_what_cannot_be_carried_is_left_with_its_reason(make, reason):
    assert re.search(reason, left(make()))


def test_what_is_left_keeps_nothing_else_from_being_converted():
    model = nn.Sequential(Sharper(6), alexhex7("dot_product", 2))
    report = nl.convert_nonlocal_(model)
    assert (list(report.converted), list(report.left)) == (["1"], ["0"])


# The table of the guide


def difference(case):
    """Return the greatest difference of the outputs, in eval and in train mode, in float32."""
    torch.manual_seed(0)
    theirs = nn.Sequential(case.build())
    ours, _ = converted(theirs)
    x = example(case.dimension)
    with torch.no_grad():
        pairs = [(ours.train(mode)(x), theirs.train(mode)(x)) for mode in (False, True)]
    return max((after - before).abs().max().item() for after, before in pairs)


def parity_table(measure=difference):
    columns = ("pool, norm", "pool", "norm", "neither")
    rows = {case.row: {} for case in CASES}
    for case in CASES:
        rows[case.row][case.column] = f"{measure(case):.1e}"
    lines = [("from", "kind", "maps", *columns), ("---",) * 7]
    lines += [(*row, *(cells.get(column, "") for column in columns)) for row, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def test_the_guide_lists_every_case_and_none_differs():
    number = re.compile(r"\d\.\de[-+]\d\d")
    rows = [number.sub("#", line) for line in parity_table(lambda case: 0.0).splitlines()]
    text = GUIDE.read_text(encoding="utf-8")
    assert "\n".join(rows) in number.sub("#", text)
    assert max(float(each) for each in number.findall(text)) <= 1e-5


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(parity_table())
