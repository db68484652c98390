"""ResNet-20 on CIFAR-10, as the paper and He et al. 2015 train it.

    python -m hyperdyn_jax.prepare cifar10 --data_dir=DIR
    python train.py --config=configs/cifar10.py --config.data_dir=DIR
    python train.py --config=configs/cifar10.py:batch=1000 --config.data_dir=DIR \
        --config.strategy=manual_large_batch --workdir=runs/cifar10_manual_1000

0.27 M parameters; 45,000 images train, 5,000 validate, 10,000 test; pad-and-crop by 4
pixels and flips. After the colon: the optimizer (sgd, plain_sgd, adam, lars, prodigy,
schedule_free, salera), the batch size (128, 1000, 2000, 4000), and smoke, which is two
epochs of a tiny network.

64,000 iterations of 128 images are 182 epochs. Time and accuracy: not measured.
"""

from ml_collections import ConfigDict

from hyperdyn_jax import presets


def get_config(argument: str = "") -> ConfigDict:
    choices = presets.parse(
        argument,
        optimizer=tuple(presets.OPTIMIZERS),
        batch=presets.BATCH_SIZES,
        size=("full", "smoke"),
    )
    config = ConfigDict(
        {
            "name": "cifar10",
            "seed": 0,
            "epochs": 182,
            "batch_size": int(choices["batch"]),
            "eval_batch_size": 1000,
            "dataset": "cifar10",
            "data_dir": "",
            "skip_bad_records": 0,  # so many are left out; one more ends the run
            "pad": 4,  # pixels, He et al. 2015, section 4.2
            "model": {
                "name": "cifar_resnet",
                "depth": 20,
                "width": 16,
                "shortcut": "A",
                "dtype": "float32",
                "sync_batch_norm": True,  # all devices normalise by the whole batch
            },
            **presets.tuning(choices["optimizer"]),
        }
    )
    if choices["size"] == "smoke":
        # Too short a run for a race.
        config.update(epochs=2, eval_batch_size=128, strategy="hyperdyn")
        config.model.update(depth=8, width=2)
    return config
