"""The A/A control of explore's switch test on the twin, and its power.

    python benchmarks/control.py DATA_DIR    # trains the probes, then as below
    python benchmarks/control.py             # from the probes of the record

A placebo: every trial, whatever its setting says, is a probe at the base's own rate, on
data of its own (on the same data it would be the same to the bit). A tuner that leaves
the base is wrong. Probes of 10 networks are trained once, on 24 stretches of data each,
and 400 decisions draw from those of their network without replacement. Few of them come
as far as the test, so placebo pairs are given to the test itself too, with its margin
and without.

The power is that of the test as it is run, with its margin and both of its looks, for a
gap between two constant rates; the deviation is that of pairs that were trained on the
same data. All pairs are scored on one validation split: what is known of the level is
against the luck of the data's order, not against that of the split.

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
from hyperdyn_jax.strategies import explore_then_commit as explore
from hyperdyn_jax.strategies import paired_test
from hyperdyn_jax.system import streams
from hyperdyn_jax.training.trainer import Trainer

NETWORKS, STRETCHES, DECISIONS = 10, 24, 400
PLACEBOS = 20_000  # tests of the base against itself
GAPS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08)  # in progress
RATE, OTHER = 0.2, 0.05  # of the base, and of the challenger whose pairs are measured


STEPS_PER_EPOCH = 32  # of the twin
RECORD = ROOT / "benchmarks" / "results" / "control.json"


def settings(data_dir: str) -> dict[str, Any]:
    """The recommended mode on the twin for 48 epochs."""
    mine = load_config("cifar10_twin")
    mine.update(data_dir=data_dir, epochs=48, strategy="explore")
    return mine.to_dict()


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


def train(tuner: explore.ExploreThenCommit, data_dir: str) -> list[dict[str, Any]]:
    """The probes of every network, as short as those that explore and as long as those
    that confirm."""
    setup = config.build(settings(data_dir))
    trainer = Trainer(setup.model, setup.optimizer, setup.dataset)
    long = tuner.pair * tuner.probe_steps
    return [
        {
            "short": probes(trainer, network, tuner.probe_steps, [RATE]),
            "long": probes(trainer, network, long, [RATE, OTHER]),
        }
        for network in range(NETWORKS)
    ]


def decide(
    tuner: explore.ExploreThenCommit, pool: dict[str, Any], seed: int
) -> tuple[bool, bool]:
    """Whether a placebo comes as far as the test, and whether it passes it."""
    rng = np.random.default_rng(seed)
    short, long = (list(rng.permutation(pool[k]["scores"][:, 0])) for k in pool)
    state = tuner.init(jax.random.key(seed), pool["short"]["start"])
    tested = False
    while state.phase != explore.COMMIT:
        trials = tuner.ask(state)
        confirms = state.phase == explore.CONFIRM
        tested |= bool(confirms)
        drawn = long if confirms else short
        scores = np.float32([drawn.pop() for _ in trials.parents])
        state, _ = tuner.tell(state, trials, scores)
    left = state.chosen["learning_rate"] != tuner.anchor["learning_rate"]
    return tested, bool(left)


def false_switches(
    tuner: explore.ExploreThenCommit, gains: list[np.ndarray], margin: float
) -> float:
    """How often the test prefers a placebo to the base, of `PLACEBOS` tests."""
    rng, first = np.random.default_rng(0), tuner.confirmations
    switched = 0
    for i in range(PLACEBOS):
        drawn = rng.permutation(gains[i % len(gains)][:, 0])[: 4 * first]
        pairs = (1 - margin) * drawn[::2] - drawn[1::2]
        counts = range(1, 2 * first + 1)
        verdicts = (
            paired_test.look(pairs[:n], first, 2 * first, tuner.level) for n in counts
        )
        ended = (v for v in verdicts if v is not paired_test.Verdict.CONTINUE)
        switched += next(ended) is paired_test.Verdict.SWITCH
    return switched / PLACEBOS


def analyse(
    tuner: explore.ExploreThenCommit, pools: list[dict[str, Any]]
) -> dict[str, Any]:
    """Level and power of the test that is run, from the probes."""
    decisions = [decide(tuner, pools[i % NETWORKS], i) for i in range(DECISIONS)]
    tested, switched = np.sum(decisions, axis=0)
    gains = [
        explore.progress(np.float32(p["long"]["start"]), p["long"]["scores"])
        for p in pools
    ]
    pairs = [(1 - tuner.margin) * g[:, 1] - g[:, 0] for g in gains]
    deviation = float(np.mean([np.std(x, ddof=1) for x in pairs]))
    base = float(np.mean([g[:, 0] for g in gains]))
    behind = float(np.mean([g[:, 0] - g[:, 1] for g in gains]))

    def power(gap: float) -> float:
        return paired_test.power(
            gap,
            deviation,
            first=tuner.confirmations,
            last=2 * tuner.confirmations,
            level=tuner.level,
            margin=tuner.margin,
            base=base,
        )

    return {
        "decisions": DECISIONS,
        "level": tuner.level,
        "margin": tuner.margin,
        "tested": int(tested),
        "switched": int(switched),
        "placebos": PLACEBOS,
        "false_switches": {
            "without_margin": false_switches(tuner, gains, 0.0),
            "with_margin": false_switches(tuner, gains, tuner.margin),
        },
        "base_progress": base,
        "pair_deviation": deviation,
        "gap_of_a_quarter_rate": behind,
        "gap_at_the_margin": tuner.margin * base / (1 - tuner.margin),
        "power_by_gap": {f"{gap:g}": power(gap) for gap in GAPS},
    }


def main() -> None:
    tuner = config.make_tuner(settings(""), STEPS_PER_EPOCH)
    if sys.argv[1:]:
        pools, trained = train(tuner, sys.argv[1]), datetime.now(UTC).date().isoformat()
    else:
        recorded = json.loads(RECORD.read_text())["results"]
        pools, trained = recorded["pools"], recorded["trained"]
    for pool in pools:
        for probed in pool.values():
            probed["scores"] = np.array(probed["scores"])
    made = {"trained": trained, **analyse(tuner, pools)}
    print(made)
    for pool in pools:
        for probed in pool.values():
            probed["scores"] = probed["scores"].tolist()
    record.write(RECORD, ("jax", "tinygp", "numpy"), made | {"pools": pools})


if __name__ == "__main__":
    main()
