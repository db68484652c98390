"""The next character of Python's manual, offline: a second kind of problem, with Adam.

    python train.py --config=configs/characters.py

A perceptron over 16 characters (Bengio et al. 2003) without convolutions or BatchNorm;
32,768 windows train, 4,096 validate, 4,096 test; batch 512, 64 steps an epoch. After
the colon: the optimizer (adam, sgd, plain_sgd, lars, prodigy, schedule_free, salera).
"""

from ml_collections import ConfigDict

from hyperdyn_jax import presets

OPTIMIZERS = ("adam", *(name for name in presets.OPTIMIZERS if name != "adam"))


def get_config(argument: str = "") -> ConfigDict:
    choices = presets.parse(argument, optimizer=OPTIMIZERS)
    return ConfigDict(
        {
            "name": "characters",
            "seed": 0,
            "epochs": 24,
            "batch_size": 512,
            "eval_batch_size": 1024,
            "dataset": "characters",
            "data_dir": "",  # comes with Python
            "pad": 0,  # nothing to shift
            "model": {"name": "character_mlp", "width": 256},
            **presets.tuning(choices["optimizer"]),
        }
    )
