"""The networks of the papers written again in torch.

The children have the names of ours, so that weights are copied by path; nothing else is
shared. For the tests, and for the benchmarks against torch.
"""

import jax.numpy as jnp
import torch
from flax import traverse_util


class TorchConvNorm(torch.nn.Module):
    def __init__(self, channels, filters, size, stride):
        super().__init__()
        self.conv = torch.nn.Conv2d(
            channels, filters, size, stride, padding=(size - 1) // 2, bias=False
        )
        self.norm = torch.nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)

    def forward(self, x):
        return self.norm(self.conv(x))


class TorchBlock(torch.nn.Module):
    """(size, stride, filters) of each convolution in turn, and a shortcut."""

    def __init__(self, channels, convolutions, option):
        super().__init__()
        self.stride, self.option, source = 1, option, channels
        for i, (size, stride, filters) in enumerate(convolutions, start=1):
            self.add_module(f"conv{i}", TorchConvNorm(source, filters, size, stride))
            self.stride, source = self.stride * stride, filters
        self.length, self.missing = len(convolutions), source - channels
        if self.missing and option == "B":
            self.projection = TorchConvNorm(channels, source, 1, self.stride)

    def forward(self, x):
        y = x
        for i in range(1, self.length + 1):
            y = self.get_submodule(f"conv{i}")(y)
            if i < self.length:
                y = torch.relu(y)
        if self.missing and self.option == "B":
            x = self.projection(x)
        elif self.missing:
            x = torch.nn.functional.avg_pool2d(
                x, kernel_size=1, stride=self.stride, ceil_mode=True
            )
            x = torch.cat([x, x.new_zeros(len(x), self.missing, *x.shape[2:])], dim=1)
        return torch.relu(x + y)


def torch_cifar(num_classes, depth, width, shortcut, channels=3):
    layers = {"stem": TorchConvNorm(channels, width, 3, 1), "relu": torch.nn.ReLU()}
    source = width
    for stage in (1, 2, 3):
        filters = width * 2 ** (stage - 1)
        for number in range(1, (depth - 2) // 6 + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            layers[f"stage{stage}_block{number}"] = TorchBlock(
                source, [(3, stride, filters), (3, 1, filters)], shortcut
            )
            source = filters
    return torch_network(layers, source, num_classes)


def torch_imagenet(num_classes, depth, width):
    layers = {
        "stem": TorchConvNorm(3, width, 7, 2),
        "relu": torch.nn.ReLU(),
        "pool": torch.nn.MaxPool2d(3, stride=2, padding=1),
    }
    source = width
    counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
    for stage, count in enumerate(counts, start=1):
        filters = width * 2 ** (stage - 1)
        for number in range(1, count + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            if depth < 50:
                convolutions = [(3, stride, filters), (3, 1, filters)]
            else:
                convolutions = [
                    (1, 1, filters),
                    (3, stride, filters),
                    (1, 1, 4 * filters),
                ]
            layers[f"stage{stage}_block{number}"] = TorchBlock(
                source, convolutions, "B"
            )
            source = convolutions[-1][-1]
    return torch_network(layers, source, num_classes)


def torch_network(layers, channels, num_classes):
    network = torch.nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    network.add_module("mean", torch.nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", torch.nn.Flatten())
    network.add_module("head", torch.nn.Linear(channels, num_classes))
    return network


def randomize(network, seed):
    """Draws every weight and statistic, so that none is at a value that hides it."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, torch.nn.Linear):
            module.weight.data.normal_(0, 0.3, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 1.0, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 3.0, generator=generator)
    # A block that overwrites its input, layer upon layer of it, is chaotic: float32 in
    # torch strays by 4e-4 from float64 in a ResNet-50. With a third of that, by 1e-5.
    for module in network.modules():
        if isinstance(module, TorchBlock):
            module.get_submodule(f"conv{module.length}.norm").weight.data *= 0.3


def copied(network):
    """The variables of ours, from the weights of a torch network."""
    params, stats = {}, {}
    for path, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            params[f"{path}.kernel"] = module.weight.permute(2, 3, 1, 0)  # OIHW -> HWIO
        elif isinstance(module, torch.nn.Linear):
            params[f"{path}.kernel"] = module.weight.T
            params[f"{path}.bias"] = module.bias
        elif isinstance(module, torch.nn.BatchNorm2d):
            params[f"{path}.scale"] = module.weight
            params[f"{path}.bias"] = module.bias
            stats[f"{path}.mean"] = module.running_mean
            stats[f"{path}.var"] = module.running_var
    return {
        name: traverse_util.unflatten_dict(
            # A copy: torch updates the statistics in place.
            {path: jnp.array(value.detach().numpy()) for path, value in tree.items()},
            sep=".",
        )
        for name, tree in (("params", params), ("batch_stats", stats))
    }
