"""Handwritten digits, offline: the quick start.

    python train.py --config=configs/digits.py

A ResNet-8 of width 16 on scikit-learn's 1,797 digits of 8x8 pixels; 1,280 train, 257
validate, 260 test. The learning rate of SGD is found by a race; the paper's method,
which tunes its momentum too, is --config.strategy=hyperdyn. After a
colon another optimizer can be named: configs/digits.py:plain_sgd, digits.py:adam.
"""

from ml_collections import ConfigDict

from hyperdyn_jax import presets


def get_config(argument: str = "") -> ConfigDict:
    choices = presets.parse(argument, optimizer=tuple(presets.OPTIMIZERS))
    config = ConfigDict(
        {
            "name": "digits",
            "seed": 0,
            "epochs": 20,
            "batch_size": 32,
            "eval_batch_size": 128,
            "dataset": "digits",
            "data_dir": "",  # digits need none
            "pad": 0,  # pixels of random shift of training images
            "model": {
                "name": "cifar_resnet",
                "depth": 8,
                "width": 16,
                "sync_batch_norm": True,  # all devices normalise by the whole batch
            },
            **presets.tuning(choices["optimizer"]),
        }
    )
    if choices["optimizer"] in ("sgd", "plain_sgd"):
        config.search_space.learning_rate.update(low=3e-3, high=0.5)
    if choices["optimizer"] == "sgd":
        config.search_space.momentum.update(high=0.9)
    return config
