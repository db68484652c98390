"""ResNet-50 on ImageNet at a batch of 1,000, as the paper trains it.

    python -m hyperdyn_jax.prepare imagenet --data_dir=DIR
    python train.py --config=configs/imagenet.py --config.data_dir=DIR
    python train.py --config=configs/imagenet.py:batch=256 --config.data_dir=DIR \
        --config.strategy=manual_large_batch --workdir=runs/imagenet_manual_256

25.6 M parameters, bfloat16; random-resized crops of 224 pixels and flips; an image in a
hundred of the training set validates, ImageNet's own validation set tests. BatchNorm
normalises by each device's own part of the batch, as on the paper's GPUs: on 8 devices
by 125 images; config.model.sync_batch_norm=True makes it the whole batch. After the
colon: the batch size (1000, 256), and smoke, which is one epoch at 32 pixels of a
narrow ResNet-50.

Time and accuracy: not measured.
"""

from ml_collections import ConfigDict

from hyperdyn_jax import presets


def get_config(argument: str = "") -> ConfigDict:
    choices = presets.parse(argument, batch=("1000", "256"), size=("full", "smoke"))
    config = ConfigDict(
        {
            "name": "imagenet",
            "seed": 0,
            "epochs": 90,
            "batch_size": int(choices["batch"]),
            "eval_batch_size": 1000,
            "dataset": "imagenet",
            "data_dir": "",
            "skip_bad_records": 0,  # so many are left out; one more ends the run
            "image_size": 224,
            "pad": 0,  # crops are random-resized instead
            "model": {
                "name": "resnet",
                "depth": 50,
                "width": 64,
                "dtype": "bfloat16",
                # Each device by its own part of the batch, as the paper's GPUs (section
                # 4) and Goyal et al. 2017 (section 2.3): how many there are matters.
                "sync_batch_norm": False,
            },
            **presets.tuning("sgd"),
            # Goyal et al. 2017: 0.1 at a batch of 256, scaled.
            "manual_large_batch": {"reference_batch_size": 256},
        }
    )
    if choices["size"] == "smoke":
        config.update(epochs=1, batch_size=8, eval_batch_size=8, image_size=32)
        config.strategy = "hyperdyn"  # too short a run for a race
        config.model.update(width=2, dtype="float32", sync_batch_norm=True)
        config.hyperdyn.update(initial_points=2)
    return config
