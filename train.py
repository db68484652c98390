"""Trains a network while its hyperparameters are tuned.

python train.py --config=configs/digits.py
python train.py --config=configs/digits.py --config.epochs=10 --workdir=runs/short
"""

import sys

from absl import app, flags, logging

from hyperdyn_jax import cli

cli.define_flags()


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.ERROR)  # what Orbax tells is for its developers
    return cli.run(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
    sys.exit(app.run(main, flags_parser=cli.parse_flags))
