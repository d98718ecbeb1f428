"""Weights that come through wrappers: what others put before keys, around models and beside weights."""

import copy
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.checkpoints import export_checkpoint
from nonlocalnn.checkpoints.wrapped import is_sharded, plain_model
from tolerances import assert_near


def network():
    return nl.create_model("nl2_c2d_tiny", num_classes=3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomize_(network()).eval()


def assert_same(found, model):
    own = model.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], value) for key, value in own.items())


def compiled_inside(model):
    model.layer1 = torch.compile(model.layer1)
    model.layer2[0] = nn.DataParallel(model.layer2[0])
    model.layer3[0] = checkpoint_wrapper(model.layer3[0])
    return model


class ModelEmaV3(nn.Module):
    """What timm's has in common with others: the model as its child."""

    def __init__(self, model):
        super().__init__()
        self.module = model


WRAPPERS = {
    "compiled": torch.compile,
    "DataParallel": nn.DataParallel,
    "averaged": AveragedModel,
    "all three": lambda model: torch.compile(nn.DataParallel(AveragedModel(model))),
    "averaged of compiled": lambda model: AveragedModel(torch.compile(model)),
    "of timm": ModelEmaV3,
    "inside": compiled_inside,
    "inside and outside": lambda model: AveragedModel(compiled_inside(model)),
}
wrapped = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@wrapped
def test_a_wrapped_model_is_saved_as_itself(tmp_path, model, wrap):
    nl.save_checkpoint(wrap(copy.deepcopy(model)), tmp_path / "m.safetensors")
    again = nl.load_checkpoint(tmp_path / "m.safetensors")
    assert again.config == model.config
    assert_same(again.state_dict(), model)


@wrapped
def test_a_state_dict_of_a_wrapped_model_loads(tmp_path, model, wrap):
    torch.save(wrap(copy.deepcopy(model)).state_dict(), tmp_path / "m.pth")
    assert_same(nl.load_checkpoint(tmp_path / "m.pth", network()).state_dict(), model)


@wrapped
def test_weights_load_into_a_wrapped_model(tmp_path, model, wrap):
    nl.save_checkpoint(model, tmp_path / "m.safetensors")
    given = wrap(network())
    assert nl.load_checkpoint(tmp_path / "m.safetensors", given) is given
    nl.save_checkpoint(given, tmp_path / "again.safetensors")
    assert_same(nl.load_checkpoint(tmp_path / "again.safetensors").state_dict(), model)


def test_what_an_averaged_model_counts_comes_back_to_one(tmp_path, model):
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    torch.save(averaged.state_dict(), tmp_path / "m.pth")
    again = nl.load_checkpoint(tmp_path / "m.pth", AveragedModel(network()))
    assert again.n_averaged == 1
    assert_same(again.module.state_dict(), model)


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "encoder."),
        *("module.model.", "model._orig_mod.", "_forward_module.model.", "_fsdp_wrapped_module."),
    ],
)
def test_prefixes(tmp_path, model, prefix):
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "m.pth")
    assert_same(nl.load_checkpoint(tmp_path / "m.pth", network()).state_dict(), model)


def test_a_model_whose_own_keys_begin_so_keeps_them(tmp_path):
    net = nn.ModuleDict({"module": nn.ModuleDict({"model": nn.Linear(2, 3)})})
    nl.save_checkpoint(net, tmp_path / "m.safetensors")
    again = copy.deepcopy(net)
    nn.init.zeros_(again["module"]["model"].weight)
    nl.load_checkpoint(tmp_path / "m.safetensors", again)
    assert_same(again.state_dict(), net)


class Adapter(nn.Module):
    """Hands on what is asked of it, the configuration of its model among it, as some wrappers do."""

    def __init__(self, model):
        super().__init__()
        self.base_model, self.config = model, model.config


def test_a_wrapper_of_an_unknown_kind(tmp_path, model):
    nl.save_checkpoint(Adapter(model), tmp_path / "m.safetensors")
    assert_same(nl.load_checkpoint(tmp_path / "m.safetensors").state_dict(), model)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(model.state_dict())


def test_a_wrapper_with_weights_of_its_own_is_saved_with_a_warning(tmp_path, model):
    adapter = Adapter(model)
    adapter.more = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match=r"a model that you give only: .* unexpected keys: more\.weight"):
        nl.save_checkpoint(adapter, tmp_path / "m.safetensors")
    again = Adapter(network())
    again.more = nn.Linear(2, 2)
    assert_same(nl.load_checkpoint(tmp_path / "m.safetensors", again).state_dict(), adapter)


def test_keys_beside_those_of_the_model_are_named_and_no_others(tmp_path, model):
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(3)}}, tmp_path / "m.ckpt")
    with pytest.raises(nl.CheckpointError, match=r"unexpected keys: criterion\.weight$"):
        nl.load_checkpoint(tmp_path / "m.ckpt", network())


def test_a_changed_network_is_saved_with_a_warning(tmp_path, model):
    changed = copy.deepcopy(model)
    changed.fc = nn.Sequential(nn.Linear(model.fc.in_features, 7), nn.ReLU(), nn.Linear(7, 3))
    with pytest.warns(UserWarning, match=r"a model that you give only: .* missing keys: fc\.weight"):
        nl.save_checkpoint(changed, tmp_path / "m.safetensors")
    with pytest.raises(nl.CheckpointError, match="does not say what builds its model"):
        nl.load_checkpoint(tmp_path / "m.safetensors")
    given = copy.deepcopy(changed)
    nn.init.zeros_(given.fc[0].weight)
    assert_same(nl.load_checkpoint(tmp_path / "m.safetensors", given).state_dict(), changed)


def legacy(norm):
    def apply(layer):
        with pytest.warns(FutureWarning) if norm is nn.utils.weight_norm else pytest.MonkeyPatch.context():
            norm(layer)

    return apply


COMPUTED = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: [prune.random_unstructured(layer, "weight", 0.3) for _ in range(2)],
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, as it was": legacy(nn.utils.spectral_norm),
    "weight norm": parametrizations.weight_norm,
    "weight norm, as it was": legacy(nn.utils.weight_norm),
}


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel], ids=["plain", "DataParallel"])
@pytest.mark.parametrize("apply", COMPUTED.values(), ids=COMPUTED)
def test_weights_that_are_computed_are_saved_as_they_are(tmp_path, model, apply, wrap):
    changed = copy.deepcopy(model)
    apply(changed.layer2[0].conv1)
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        expected = changed.eval()(x)
    before = {key: value.clone() for key, value in changed.state_dict().items()}
    nl.save_checkpoint(wrap(changed.train()), tmp_path / "m.safetensors")
    assert_same(before, changed)  # no power iteration ran
    assert all(module.training for module in changed.modules())
    torch.testing.assert_close(nl.load_checkpoint(tmp_path / "m.safetensors").eval()(x), expected)


def of_torchvision():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    net = torchvision.models.resnet18(weights=None, num_classes=3)
    nl.insert_nonlocal_(net, ["layer3.1"], zero_init=False)
    return net.eval()


@pytest.mark.parametrize("apply", COMPUTED.values(), ids=COMPUTED)
def test_a_changed_network_of_another_library_loads_by_itself(tmp_path, apply):
    net, x = of_torchvision(), torch.randn(1, 3, 32, 32)
    apply(net.layer3[1].nl.g)
    apply(net.layer1[0].conv1)
    net.layer2 = torch.compile(net.layer2, backend="eager")
    net.layer4[1] = checkpoint_wrapper(net.layer4[1])
    with torch.no_grad():
        expected = net(x)
    before = copy.deepcopy(net.state_dict())
    nl.save_checkpoint(nn.DataParallel(net), tmp_path / "m.safetensors")
    assert_same(before, net)
    again = nl.load_checkpoint(tmp_path / "m.safetensors").eval()
    assert list(nl.nonlocal_blocks(again)) == ["layer3.1.nl"]
    assert_near(again(x).detach(), expected)


@pytest.mark.parametrize("make", [of_torchvision, network], ids=["torchvision", "ours"])
def test_a_network_with_norms_over_ranks_is_described(tmp_path, make):
    net = nn.SyncBatchNorm.convert_sync_batchnorm(make())
    nl.save_checkpoint(net, tmp_path / "m.safetensors")
    again = nl.load_checkpoint(tmp_path / "m.safetensors")
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in again.modules())
    assert_same(again.state_dict(), net)


def test_modules_that_are_shared_or_hold_themselves_are_saved(tmp_path):
    part = nn.DataParallel(parametrizations.weight_norm(nn.Linear(4, 4)))
    plain = plain_model(nn.Sequential(part, part))
    assert plain[0] is plain[1]
    net = nn.Sequential(nn.Linear(4, 4))
    assert plain_model(net) is net
    net.append(net)
    assert plain_model(net) is net


def test_computed_weights_of_other_modules_keep_their_keys(tmp_path):
    net, again = (nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5))) for _ in range(2))
    nl.save_checkpoint(net, tmp_path / "m.safetensors")
    nl.load_checkpoint(tmp_path / "m.safetensors", again)
    assert_same(again.state_dict(), net)
    with pytest.raises(
        nl.CheckpointError, match="the file's weights are computed from others: prune or norm"
    ):
        nl.load_checkpoint(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(4, 5)))


def test_plain_weights_for_a_pruned_model_say_what_to_do(tmp_path, model):
    nl.save_checkpoint(model, tmp_path / "m.safetensors")
    pruned = network()
    prune.l1_unstructured(pruned.layer2[0].conv1, "weight", 0.5)
    with pytest.raises(nl.CheckpointError, match="load first, then prune or norm it"):
        nl.load_checkpoint(tmp_path / "m.safetensors", pruned)


def test_what_has_no_numbers_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"conv1.weight has no numbers: it is on the meta device"):
        nl.save_checkpoint(network().to("meta"), tmp_path / "m.safetensors")

    class ShardedTensor(torch.Tensor):
        pass

    part = torch.zeros(2).as_subclass(ShardedTensor)
    assert is_sharded(part)
    net = nn.Module()
    net.register_buffer("part", part)
    with pytest.raises(ValueError, match=r"part is sharded over ranks: load what .*get_model_state_dict"):
        nl.save_checkpoint(net, tmp_path / "m.safetensors")
    torch.save({"part": torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(nl.CheckpointError, match="part of the model is sharded over ranks: load first"):
        nl.load_checkpoint(tmp_path / "m.pth", net)
    assert not (tmp_path / "m.safetensors").exists()


class _Mesh:
    def __init__(self, num_ranks):
        self._num_ranks = num_ranks

    def size(self):
        return self._num_ranks


@pytest.mark.parametrize(
    ("num_ranks", "is_replicated", "expected"),
    [(1, [False], False), (2, [False], True), (2, [True], False), (4, [True, False], True)],
)
def test_a_distributed_tensor_is_a_part_unless_this_rank_holds_it_all(num_ranks, is_replicated, expected):
    # Its placements are all that is asked; a real one of several ranks needs as many processes.
    placements = [SimpleNamespace(is_replicate=lambda value=value: value) for value in is_replicated]

    class DTensor:
        device_mesh = _Mesh(num_ranks)

    part = DTensor()
    part.placements = placements
    assert is_sharded(part) is expected


def test_a_wrapped_network_is_exported(tmp_path):
    network = nl.create_model("nl5_i3d_r50_8x8", width=4, num_classes=5)
    export_checkpoint(network, tmp_path / "a.pyth", to="slowfast")
    export_checkpoint(torch.compile(nn.DataParallel(network)), tmp_path / "b.pyth", to="slowfast")
    first, second = (
        torch.load(tmp_path / name, weights_only=True)["model_state"] for name in ("a.pyth", "b.pyth")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "model."])
def test_other_code_bases_in_wrappers(tmp_path, prefix):
    network = nl.create_model("nl5_i3d_r50_8x8", width=4, num_classes=5)
    export_checkpoint(network, tmp_path / "a.pyth", to="slowfast")
    state = torch.load(tmp_path / "a.pyth", weights_only=True)["model_state"]
    torch.save({"model_state": {prefix + key: value for key, value in state.items()}}, tmp_path / "b.pyth")
    assert_same(nl.load_checkpoint(tmp_path / "b.pyth").state_dict(), network)
