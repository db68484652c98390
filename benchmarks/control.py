"""The A/A control of explore's switch test on the twin, and its power.

    python benchmarks/control.py DATA_DIR

A placebo: every trial, whatever its setting says, is a probe at the base's own rate, on
data of its own (on the same data it would be the same to the bit). A tuner that leaves
the base is wrong. Probes of 10 networks are trained once, on 24 stretches of data each,
and 400 decisions draw from those of their network without replacement.

The power is that of one look at three pairs for a gap between two constant rates, from
the deviation of pairs that were trained on the same data. Raw record to
benchmarks/results/control.json.
"""

import sys
from typing import Any

import jax
import numpy as np
import record
from strategies import ROOT, load_config

from hyperdyn_jax.run import config
from hyperdyn_jax.strategies import explore_then_commit as explore
from hyperdyn_jax.strategies import paired_test
from hyperdyn_jax.system import streams
from hyperdyn_jax.training.trainer import Trainer

NETWORKS, STRETCHES, DECISIONS = 10, 24, 400
RATE, OTHER = 0.2, 0.05  # of the base, and of the challenger whose pairs are measured


def load(data_dir: str) -> config.Setup:
    """The recommended mode on the twin for 48 epochs."""
    settings = load_config("cifar10_twin")
    settings.update(data_dir=data_dir, epochs=48, strategy="explore")
    return config.build(settings.to_dict())


def probes(
    trainer: Trainer, network: int, steps: int, rates: list[float]
) -> dict[str, Any]:
    """Scores of probes: the network's own, and f[stretches, rates] after `steps`."""
    weights, _, augmentation = streams.of_run(1000 + network)
    state = trainer.init(weights)
    scores = np.zeros((STRETCHES, len(rates)))
    for stretch in range(STRETCHES):
        begin = trainer.skip(state, stretch * steps)
        settings = [{"learning_rate": np.float32(rate)} for rate in rates]
        branches = trainer.train(
            trainer.begin([begin] * len(rates), settings), steps, augmentation
        ).states
        scores[stretch] = [-trainer.evaluate(x, "validation").loss for x in branches]
    start = -trainer.evaluate(state, "validation").loss
    return {"start": start, "scores": scores}


def decide(tuner: explore.ExploreThenCommit, pool: dict[str, Any], seed: int) -> bool:
    """Whether a placebo makes the tuner leave its base."""
    rng = np.random.default_rng(seed)
    short, long = (list(rng.permutation(pool[k]["scores"][:, 0])) for k in pool)
    state = tuner.init(jax.random.key(seed), pool["short"]["start"])
    while state.phase != explore.COMMIT:
        trials = tuner.ask(state)
        drawn = long if state.phase == explore.CONFIRM else short
        scores = np.float32([drawn.pop() for _ in trials.parents])
        state, _ = tuner.tell(state, trials, scores)
    return bool(state.chosen["learning_rate"] != tuner.anchor["learning_rate"])


def main() -> None:
    setup = load(sys.argv[1])
    tuner = setup.tuner
    trainer = Trainer(setup.model, setup.optimizer, setup.dataset)
    long = tuner.pair * tuner.probe_steps
    pools = [
        {
            "short": probes(trainer, network, tuner.probe_steps, [RATE]),
            "long": probes(trainer, network, long, [RATE, OTHER]),
        }
        for network in range(NETWORKS)
    ]
    switched = [decide(tuner, pools[i % NETWORKS], i) for i in range(DECISIONS)]
    gains = [
        explore.progress(np.float32(p["long"]["start"]), p["long"]["scores"])
        for p in pools
    ]
    paired = np.concatenate([g[:, 0] - g[:, 1] for g in gains])
    deviation = float(np.mean([np.std(g[:, 0] - g[:, 1], ddof=1) for g in gains]))
    results = {
        "decisions": DECISIONS,
        "level": tuner.level,
        "switched": int(np.sum(switched)),
        "pair_deviation": deviation,
        "gap_of_a_quarter_rate": float(np.mean(paired)),
        "power_by_gap": {
            f"{gap:g}": paired_test.power(
                gap, deviation, tuner.confirmations, tuner.level
            )
            for gap in (0.005, 0.01, 0.02, 0.04, 0.08)
        },
        "pools": [
            {
                kind: {
                    "start": pool[kind]["start"],
                    "scores": pool[kind]["scores"].tolist(),
                }
                for kind in pool
            }
            for pool in pools
        ],
    }
    path = ROOT / "benchmarks" / "results" / "control.json"
    record.write(path, ("jax", "tinygp", "numpy"), results)
    print({name: value for name, value in results.items() if name != "pools"})


if __name__ == "__main__":
    main()
