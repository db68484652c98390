"""Handwritten digits, offline: the quick start.

    python train.py --config=configs/digits.py

A ResNet-8 of width 16 on scikit-learn's 1,797 digits of 8x8 pixels; 1,280 train, 257
validate, 260 test. Hyperdyn in paper mode tunes SGD's learning rate and momentum.

The optimizer can be named: configs/digits.py:plain_sgd, configs/digits.py:adam.
"""

from ml_collections import ConfigDict

AXES = {
    "learning_rate": {"kind": "log_uniform", "low": 3e-3, "high": 0.5},
    "momentum": {"kind": "log_complement", "low": 0.0, "high": 0.9},
    "b1": {"kind": "log_complement", "low": 0.5, "high": 0.99},
    "b2": {"kind": "log_complement", "low": 0.9, "high": 0.9999},
}
OPTIMIZERS = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9},
    "plain_sgd": {"learning_rate": 0.1},
    "adam": {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999},
}


def get_config(optimizer: str = "sgd") -> ConfigDict:
    """The settings; hyperparameters in the search space start from its random start."""
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f"the optimizer must be one of {sorted(OPTIMIZERS)}, got {optimizer!r}"
        )
    hparams = OPTIMIZERS[optimizer]
    return ConfigDict(
        {
            "name": "digits",
            "seed": 0,
            "epochs": 20,
            "batch_size": 32,
            "eval_batch_size": 128,
            "dataset": "digits",
            "data_dir": "",  # digits need none
            "pad": 0,  # pixels of random shift of training images
            "model": {"name": "cifar_resnet", "depth": 8, "width": 16},
            # Weight decay leaves BatchNorm and biases alone unless decay_all is set.
            "optimizer": {
                "name": optimizer,
                "weight_decay": 1e-4,
                "decay_all": False,
                **hparams,
            },
            "search_space": {name: AXES[name] for name in hparams},
            "strategy": "hyperdyn",
            "hyperdyn": {  # the paper's values, section 4
                "initial_points": 5,
                "window": 4,
                "temperature": 1.0,
                "offset": 0.01,
                "kernel": "matern52",
                "alpha": 1.0,
                "beta": 0.5,
                "capacity": 256,
                "fit_steps": 4,
                "candidates": 2048,
                "starts": 4,
                "ascent_steps": 20,
            },
        }
    )
