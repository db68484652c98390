"""The A/A control of the race on the twin: how often it leaves a base for nothing.

    python benchmarks/control.py DATA_DIR    # trains the arms, then as below
    python benchmarks/control.py             # from the arms of the record

A placebo: every arm, whatever its setting says, is a training at the base's own rate,
on data of its own (on the same data it would be the same to the bit). A race that
leaves the base is wrong. Arms of 10 networks are trained once, on 24 stretches of data
each, through the horizons of all rounds; so what an arm's data did to it stays with it.
400 races draw their arms from those of their network without replacement.

Raw record to benchmarks/results/control.json.
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np
import record
from strategies import ROOT, load_config

from hyperdyn_jax.run import config
from hyperdyn_jax.run.config_strategy import make_tuner
from hyperdyn_jax.strategies.race import RACE, Race
from hyperdyn_jax.system import streams
from hyperdyn_jax.training.trainer import Trainer

NETWORKS, STRETCHES, DECISIONS = 10, 24, 400
STEPS_PER_EPOCH = 32  # of the twin
RECORD = ROOT / "benchmarks" / "results" / "control.json"


def settings(data_dir: str) -> dict[str, Any]:
    """The race on the twin for 48 epochs, told its usual rate."""
    mine = load_config("cifar10_twin")
    mine.update(data_dir=data_dir, epochs=48, strategy="race")
    return mine.to_dict()


def arms(trainer: Trainer, tuner: Race, network: int) -> np.ndarray:
    """Scores of a network's arms after each round: f64[stretches, rounds]."""
    weights, _, augmentation = streams.of_run(1000 + network)
    state, horizons = trainer.init(weights), tuner.horizons
    rate = {"learning_rate": np.float32(tuner.anchor["learning_rate"])}
    scores = np.zeros((STRETCHES, len(horizons)))
    for stretch in range(STRETCHES):
        step = state.step + np.int32(stretch * horizons[-1])
        branch = state._replace(step=trainer.replicate(step))
        for i, steps in enumerate(np.diff([0, *horizons])):
            begun = trainer.begin([branch], [rate])
            (branch,) = trainer.train(begun, int(steps), augmentation).states
            scores[stretch, i] = -trainer.evaluate(branch, "validation").loss
    return scores


def leaves(tuner: Race, pool: np.ndarray, seed: int) -> bool:
    """Whether a race of placebos leaves its base."""
    drawn = np.random.default_rng(seed).permutation(pool)
    state = tuner.init(jax.random.key(seed), 0.0)
    held, count = [0], 0
    while state.phase == RACE:
        trials = tuner.ask(state)
        who = [held[parent] for parent in trials.parents]
        if not count:  # the first round: each arm is another training
            who = list(range(len(trials.parents)))
        scores = np.float32(drawn[who, min(count, pool.shape[1] - 1)])
        state, decision = tuner.tell(state, trials, scores)
        held, count = [[*who, *held][i] for i in decision.hold], count + 1
    return not state.kept


def main() -> None:
    tuner = make_tuner(settings(""), STEPS_PER_EPOCH)
    if sys.argv[1:]:
        setup = config.build(settings(sys.argv[1]))
        trainer = Trainer(setup.model, setup.optimizer, setup.dataset)
        pools = [arms(trainer, tuner, network) for network in range(NETWORKS)]
        trained = datetime.now(UTC).date().isoformat()
    else:
        recorded = json.loads(RECORD.read_text())["results"]
        pools, trained = [*map(np.array, recorded["pools"])], recorded["trained"]
    left = sum(leaves(tuner, pools[i % NETWORKS], i) for i in range(DECISIONS))
    made = {"trained": trained, "decisions": DECISIONS, "left": left}
    print(made)
    pools = [pool.round(6).tolist() for pool in pools]
    record.write(RECORD, ("jax", "tinygp", "numpy"), made | {"pools": pools})


if __name__ == "__main__":
    main()
