"""Trains a network while its hyperparameters are tuned.

    hyperdyn-train --config=digits
    hyperdyn-train --config=configs/digits.py --config.epochs=10 --workdir=runs/short

The same command again goes on with a run that was stopped. With another config,
--fork=RUN --workdir=NEW starts anew from the weights of a run. With --dry_run it tells
what the run would be, and trains nothing; with --topology=v5e:2x4 too, what it would
be on that TPU slice. `python train.py` in a copy of the repository and
`python -m hyperdyn_jax.train` are the same command.
"""

import functools
import sys

from absl import app, flags, logging

from hyperdyn_jax.commands import cli
from hyperdyn_jax.system import memory, process, signals

# Of one run in several processes, the same command in each but for --process:
PLACE = {
    "coordinator": "HOST:PORT of process 0; auto on Cloud TPU, SLURM and others.",
    "processes": "How many processes there are.",
    "process": "Number of this process, from 0.",
    "heartbeat": "Seconds of silence after which a process is lost; 10 by default.",
}
FLAGS = {
    "workdir": "Run directory; runs/<config.name> by default.",
    "fork": "Run directory whose last weights the run starts with.",
    "topology": "With --dry_run: a TPU slice that is not here, such as v5e:2x4.",
    **PLACE,
}
DRY_RUN = "Tell what the run would be, its cost and memory; train nothing."


def main() -> None:
    """The command, whichever of its names it was given."""
    process.begin()
    memory.keep_freed()
    # Here and not above: importing this module leaves the flags of others alone.
    cli.define_config()
    for name, about in FLAGS.items():
        flags.DEFINE_string(name, None, about)
    flags.DEFINE_bool("dry_run", False, DRY_RUN)
    app.run(_train, flags_parser=functools.partial(cli.parse_flags, about=__doc__))


def _train(_: list[str]) -> int:
    logging.set_verbosity(logging.ERROR)  # what Orbax tells is for its developers
    given = flags.FLAGS
    place = [given[name].value for name in PLACE]
    config = cli.load_config(sys.argv)
    code = cli.run(
        config, given.workdir, given.fork, place, given.dry_run, given.topology
    )
    signals.ignore()  # one that comes again must not change the exit code
    return code


if __name__ == "__main__":
    main()
