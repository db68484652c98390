"""The CPU twin of CIFAR-10: small enough to compare strategies over seeds in minutes.

    python train.py --config=configs/cifar10_twin.py --config.data_dir=DIR

A ResNet-8 of width 8 on 16x16 pixels (2x2 means); 4,096 images train, 2,048 validate,
4,096 test; batch 128, 32 steps an epoch. Cosine at learning rate 0.2, momentum 0.9 is
about the best of the plain schedules. After the colon: the optimizer (sgd, plain_sgd,
adam, lars, prodigy, schedule_free, salera) and the batch size (128, 1000, 2000, 4000).
"""

from ml_collections import ConfigDict

from hyperdyn_jax import presets


def get_config(argument: str = "") -> ConfigDict:
    choices = presets.parse(
        argument, optimizer=tuple(presets.OPTIMIZERS), batch=presets.BATCH_SIZES
    )
    config = ConfigDict(
        {
            "name": "cifar10_twin",
            "seed": 0,
            "epochs": 24,
            "batch_size": int(choices["batch"]),
            "eval_batch_size": 512,
            "dataset": "cifar10_twin",
            "data_dir": "",
            "skip_bad_records": 0,  # so many are left out; one more ends the run
            "pad": 2,  # pixels: half of 4, as the images are half the size
            "model": {
                "name": "cifar_resnet",
                "depth": 8,
                "width": 8,
                "sync_batch_norm": True,  # all devices normalise by the whole batch
            },
            **presets.tuning(choices["optimizer"]),
            # A stage of 1 epoch would have probes of less than a step.
            "autolrs": {"stage": 4.0, "max_stage": 4.0, "kappa": 1e6},
        }
    )
    if choices["optimizer"] == "sgd":
        config.optimizer.learning_rate = 0.2
    return config
