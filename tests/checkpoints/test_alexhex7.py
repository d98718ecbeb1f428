"""The other code base's digit network becomes ours: equal outputs, equal maps."""

import pytest
import torch

import nonlocalnn as nl
from alexhex7 import TheirNetwork, randomized
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import assert_near

KEYS_OF_A_SUB_SAMPLED_BLOCK = {
    "gaussian": "g.0.weight g.0.bias",
    "embedded_gaussian": "g.0.weight g.0.bias theta.weight theta.bias phi.0.weight phi.0.bias",
    "concatenation": "g.0.weight g.0.bias theta.weight theta.bias phi.0.weight phi.0.bias "
    "concat_project.0.weight",
}
KEYS_OF_A_SUB_SAMPLED_BLOCK["dot_product"] = KEYS_OF_A_SUB_SAMPLED_BLOCK["embedded_gaussian"]
W_KEYS = "W.0.weight W.0.bias W.1.weight W.1.bias W.1.running_mean W.1.running_var W.1.num_batches_tracked"


@pytest.mark.parametrize("kind", INSTANTIATIONS)
def test_the_stand_in_has_the_known_keys(kind):
    keys = {key.removeprefix("nl_1.") for key in TheirNetwork(kind).state_dict() if key.startswith("nl_1.")}
    assert keys == set(f"{KEYS_OF_A_SUB_SAMPLED_BLOCK[kind]} {W_KEYS}".split())


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "DataParallel"])
@pytest.mark.parametrize("bn_layer", [True, False], ids=["norm", "no norm"])
@pytest.mark.parametrize("sub_sample", [True, False], ids=["pooled", "not pooled"])
@pytest.mark.parametrize("kind", INSTANTIATIONS)
def test_equal_outputs_and_maps(tmp_path, kind, sub_sample, bn_layer, prefix):
    theirs = randomized(kind, sub_sample=sub_sample, bn_layer=bn_layer)
    path = tmp_path / "theirs.pth"
    torch.save({prefix + key: value for key, value in theirs.state_dict().items()}, path)
    model = None
    if kind == "dot_product":
        settings = {
            "sub_sample": "after" if sub_sample else None,
            "norm": "batch" if bn_layer else None,
        }
        model = nl.create_model("nl_digits", instantiation="dot_product", **settings)
    ours = nl.load_checkpoint(path, model).eval()
    assert ours.nl_1.instantiation == kind
    x = torch.rand(3, 1, 28, 28)
    with torch.no_grad(), nl.capture_affinity(ours) as maps:
        assert_near(ours(x), theirs(x))
        for name, expected in zip(("nl_1", "nl_2"), theirs.maps(x), strict=True):
            assert_near(maps[name].affinity, expected)
            assert expected.shape[1:] == ((196, 49) if name == "nl_1" else (49, 9)) or not sub_sample
    # The blocks matter: without them the scores differ.
    with torch.no_grad():
        for block in (ours.nl_1, ours.nl_2):
            block.W_z.weight.zero_()
        assert not torch.allclose(ours(x), theirs(x))


def test_converted_file_loads_without_naming_the_model(tmp_path):
    theirs = randomized("concatenation")
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    nl.save_checkpoint(nl.load_checkpoint(tmp_path / "theirs.pth"), tmp_path / "ours.safetensors")
    ours = nl.load_checkpoint(tmp_path / "ours.safetensors").eval()
    x = torch.rand(2, 1, 28, 28)
    assert_near(ours(x), theirs(x))


def save_changed(tmp_path, change):
    state = dict(TheirNetwork("embedded_gaussian").state_dict())
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc.0.weight"), "missing keys: fc.0.weight"),
        (
            lambda state: state.pop("fc.3.bias"),
            "looks like AlexHex7's digit network, but missing keys: fc.3.b",
        ),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected keys: extra"),
        (
            lambda state: state.update({"nl_1.theta.weight": torch.zeros(16, 31, 1, 1)}),
            r"mis-shaped keys: nl_1.theta.weight \(16, 31, 1, 1\) for \(16, 32, 1, 1\)",
        ),
        (lambda state: state.pop("nl_1.theta.weight"), "its two blocks differ"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(nl.CheckpointError, match=message):
        nl.load_checkpoint(save_changed(tmp_path, change))
