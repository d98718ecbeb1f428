"""The block under real tools of other people; each test skips with a word where its tool is missing.

`pip install -e '.[wrappers]'` brings them.
"""

import copy
import warnings

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import assert_near

forms = pytest.mark.parametrize("instantiation", INSTANTIATIONS)
# What other libraries warn of at import is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


class Small(nn.Module):
    def __init__(self, instantiation, norm=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.nl = nl.NonLocal2d(8, instantiation=instantiation, norm=norm)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.nl(self.stem(x)).mean((2, 3)))


def tool(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[wrappers]'")


@forms
def test_lora_learns_through_every_layer(instantiation):
    peft = tool("peft")
    model = randomize_(Small(instantiation)).eval()
    x = torch.randn(2, 3, 9, 7)
    before = model(x)
    names = [name for name in ("theta", "phi", "g", "W_z") if getattr(model.nl, name) is not None]
    config = peft.LoraConfig(r=2, target_modules=[f"nl.{name}" for name in names], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    z = adapted(x)
    assert not torch.allclose(z, before)
    z.square().sum().backward()
    learnt = {name: part.grad for name, part in adapted.named_parameters() if part.requires_grad}
    assert len(learnt) == 2 * len(names)
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in learnt.values())
    with adapted.disable_adapter():
        assert_near(adapted(x), before)
    adapted.merge_adapter()
    assert_near(adapted(x), z.detach())


@forms
@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload"])
def test_offloaded_weights_come_when_they_are_needed(instantiation, how, tmp_path):
    accelerate = tool("accelerate")
    model = randomize_(Small(instantiation, norm="batch")).eval()
    x = torch.randn(2, 3, 9, 7)
    with torch.no_grad():
        expected = model(x)
        offloaded = copy.deepcopy(model)
        if how == "cpu_offload":
            accelerate.cpu_offload(offloaded, execution_device=torch.device("cpu"))
        else:
            accelerate.disk_offload(offloaded, tmp_path, execution_device=torch.device("cpu"))
        assert offloaded.nl.g.weight.is_meta
        assert_near(offloaded(x), expected)
        assert offloaded.nl.g.weight.is_meta


@forms
def test_opacus_has_the_gradient_of_each_sample(instantiation):
    opacus = tool("opacus")
    model = randomize_(Small(instantiation))
    x = torch.randn(3, 3, 9, 7)
    wrapped = opacus.GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    wrapped(x).square().sum().backward()
    for number in range(len(x)):
        model.zero_grad()
        model(x[number : number + 1]).square().sum().backward()
        alone = {name: part.grad for name, part in model.named_parameters()}
        each = zip(alone, wrapped.parameters(), strict=True)
        assert_near({name: part.grad_sample[number] for name, part in each}, alone)


@forms
def test_torchinfo_sees_the_layers(instantiation):
    torchinfo = tool("torchinfo")
    found = torchinfo.summary(Small(instantiation, norm="batch"), (2, 3, 9, 7), verbose=0, depth=3)
    seen = {info.var_name for info in found.summary_list if info.is_leaf_layer and info.output_size}
    model = Small(instantiation)
    assert {name for name, _ in model.nl.named_children()} <= seen
    assert found.total_params == sum(part.numel() for part in Small(instantiation, norm="batch").parameters())


@forms
def test_a_lightning_training_and_its_checkpoint(instantiation, tmp_path):
    lightning = tool("lightning")

    class Training(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Small(instantiation, norm="batch")

        def training_step(self, batch, _):
            x, y = batch
            return nn.functional.cross_entropy(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 9, 7), torch.randint(5, (8,)))
    training = Training()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(training, torch.utils.data.DataLoader(data, batch_size=4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = nl.load_checkpoint(tmp_path / "last.ckpt", Small(instantiation, norm="batch"))
    x = torch.randn(2, 3, 9, 7)
    assert_near(again.eval()(x), training.model.eval()(x))
