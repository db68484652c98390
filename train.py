"""Trains a network while its hyperparameters are tuned.

    python train.py --config=configs/digits.py
    python train.py --config=configs/digits.py --config.epochs=10 --workdir=runs/short

The same command again goes on with a run that was stopped. With another config,
--fork=RUN --workdir=NEW starts anew from the weights of a run.
"""

import sys

from absl import app, flags, logging

from hyperdyn_jax import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory; runs/<config.name> by default."
)
FORK = flags.DEFINE_string(
    "fork", None, "Directory of a run from whose weights to start anew."
)


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.ERROR)  # what Orbax tells is for its developers
    return cli.run(CONFIG.value, WORKDIR.value, FORK.value)


if __name__ == "__main__":
    sys.exit(app.run(main, flags_parser=cli.parse_flags))
