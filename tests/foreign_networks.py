"""Networks that others wrote, for blocks to be put into."""

import pytest
import torch

from nonlocalnn.surgery.insertion import insert_nonlocal_


def torchvision_network(name, family=None, **settings):
    models = pytest.importorskip("torchvision").models
    owner = models if family is None else getattr(models, family)
    return getattr(owner, name)(weights=None, **settings)


def timm_network(name):
    return pytest.importorskip("timm").create_model(name, pretrained=False, num_classes=11)


def small_resnet(*, zero_init=True, after=("layer3",), **settings):
    """A torchvision ResNet of five bottlenecks, thin enough to be quick; and an input."""
    resnet = pytest.importorskip("torchvision").models.resnet
    model = resnet.ResNet(resnet.Bottleneck, [1, 1, 2, 1], num_classes=7, width_per_group=4).eval()
    x = torch.randn(2, 3, 64, 48)
    if after:
        insert_nonlocal_(model, list(after), zero_init=zero_init, **settings)
    return model, x
