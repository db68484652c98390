"""The networks against the papers written again in torch, on the same weights."""

import os
from functools import partial

import jax
import numpy as np
import pytest
from networks import flat, normal, predict, shapes_of, train_forward

from hyperdyn_jax.models import CifarResNet, ResNet

if "CI" in os.environ:  # where it is always installed, and its absence is a mistake
    import torch
else:
    torch = pytest.importorskip("torch", reason="needs pip install torch")
from torch_networks import copied, randomize, torch_cifar, torch_imagenet

pytestmark = pytest.mark.slow


def torch_logits(network, images):
    with torch.no_grad():
        return network(torch.tensor(images).permute(0, 3, 1, 2)).numpy()


TWINS = {
    "cifar20-A": (
        CifarResNet(num_classes=10),
        torch_cifar(10, 20, 16, "A"),
        (8, 32, 32, 3),
    ),
    "cifar20-B": (
        CifarResNet(num_classes=10, shortcut="B"),
        torch_cifar(10, 20, 16, "B"),
        (8, 32, 32, 3),
    ),
    "digits-A": (
        CifarResNet(num_classes=10, depth=8, width=8),
        torch_cifar(10, 8, 8, "A", channels=1),
        (16, 8, 8, 1),
    ),
    "odd-A": (
        CifarResNet(num_classes=7, depth=8, width=5),
        torch_cifar(7, 8, 5, "A"),
        (9, 13, 22, 3),
    ),
    "odd-B": (
        CifarResNet(num_classes=7, depth=8, width=5, shortcut="B"),
        torch_cifar(7, 8, 5, "B"),
        (9, 13, 22, 3),
    ),
    "resnet18-odd": (
        ResNet(num_classes=7, depth=18, width=8),
        torch_imagenet(7, 18, 8),
        (8, 61, 75, 3),
    ),
    "resnet50": (
        ResNet(num_classes=7, depth=50, width=8),
        torch_imagenet(7, 50, 8),
        (8, 64, 64, 3),
    ),
}


@pytest.fixture(params=TWINS)
def twin(request):
    """-> our model, its torch twin, variables of both, images."""
    model, network, shape = TWINS[request.param]
    randomize(network, seed=6)
    variables = copied(network)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes_of(model, shape[1:]))
    )
    return model, network, variables, normal(7, *shape)


def test_evaluation_equals_torch(twin):
    model, network, variables, images = twin
    expected = torch_logits(network.eval(), images)
    assert expected.std() > 0.1
    logits = predict(model, variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_training_equals_torch(twin):
    model, network, variables, images = twin
    count = {}  # values that went into each mean

    def note(path, _, inputs, __):
        count[path] = inputs[0].numel() // inputs[0].shape[1]

    norms = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    hooks = [m.register_forward_hook(partial(note, path)) for path, m in norms.items()]
    expected = torch_logits(network.train(), images)
    for hook in hooks:
        hook.remove()
    assert expected.std() > 0.1

    logits, stats = train_forward(model, variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)

    before, after = flat(variables["batch_stats"]), flat(stats)
    assert len(after) == 2 * len(norms)
    for path, module in norms.items():
        mean, var = module.running_mean.numpy(), module.running_var.numpy()
        np.testing.assert_allclose(after[f"{path}.mean"], mean, rtol=1e-4, atol=1e-4)
        # Torch takes in n / (n - 1) times the variance it normalizes with; Flax, that.
        n = count[path]
        old = 0.9 * before[f"{path}.var"]
        var = old + (var - old) * (n - 1) / n
        np.testing.assert_allclose(after[f"{path}.var"], var, rtol=1e-4, atol=1e-4)


# Bad arguments.
