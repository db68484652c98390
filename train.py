"""Trains a network while its hyperparameters are tuned.

    python train.py --config=configs/digits.py
    python train.py --config=configs/digits.py --config.epochs=10 --workdir=runs/short

The same command again goes on with a run that was stopped. With another config,
--fork=RUN --workdir=NEW starts anew from the weights of a run. With --dry_run it tells
what the run would be, and trains nothing.
"""

import sys

from absl import app, flags, logging

from hyperdyn_jax import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory; runs/<config.name> by default."
)
FORK = flags.DEFINE_string(
    "fork", None, "Run directory from whose weights to start anew."
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Tell what the run would be, its cost and memory; train nothing."
)

# Of one run in several processes, the same command in each but for --process:
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; auto on Cloud TPU, SLURM and others."
)
PROCESSES = flags.DEFINE_string("processes", None, "How many processes there are.")
PROCESS = flags.DEFINE_string("process", None, "Which one this is, from 0.")
HEARTBEAT = flags.DEFINE_string(
    "heartbeat",
    None,
    "Seconds without a word until a process counts as lost; 10 by default.",
)


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.ERROR)  # what Orbax tells is for its developers
    places = [COORDINATOR, PROCESSES, PROCESS, HEARTBEAT]
    places = [flag.value for flag in places]
    return cli.run(CONFIG.value, WORKDIR.value, FORK.value, places, DRY_RUN.value)


if __name__ == "__main__":
    sys.exit(app.run(main, flags_parser=cli.parse_flags))
