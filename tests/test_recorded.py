"""Decisions of recorded runs, made again from their scores on this Python and jax.

Training rounds differently in every version of XLA, and a long run then goes another
way; what the tuner makes of the same scores does not.
"""

import functools
import json

import archive
import jax
import numpy as np
import pytest

from hyperdyn_jax.run.config_files import read_json
from hyperdyn_jax.run.config_strategy import make_tuner
from hyperdyn_jax.system import streams
from hyperdyn_jax.tuner import cpu_jit

STEPS_PER_EPOCH = 40  # 1,280 training digits in batches of 32


@functools.cache
def recorded(strategy, seed):
    folder = archive.unpacked("decisions") / strategy / f"seed{seed}"
    rows = (folder / "decisions.jsonl").read_text().splitlines()
    return read_json(folder / "config.json"), [json.loads(row) for row in rows]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strategy", ["hyperdyn", "race"])
def test_the_same_scores_lead_to_the_same_decisions(strategy, seed):
    config, rows = recorded(strategy, seed)
    tuner = make_tuner(config, STEPS_PER_EPOCH)
    _, key, _ = streams.of_run(seed)
    if strategy == "hyperdyn":  # as runs had it then
        key = cpu_jit.key_data(jax.random.split(jax.random.key(seed), 3)[1])
    state = tuner.init(key, rows[0]["score_before"])
    for row in rows:
        trials = tuner.ask(state)
        for name in row["trials"][0]:
            wanted = [setting[name] for setting in row["trials"]]
            np.testing.assert_allclose(trials.hparams[name], wanted, rtol=1e-4)
        # The same trials, to the bit, whatever the model rounded.
        hparams = {
            name: np.float32([setting[name] for setting in row["trials"]])
            for name in row["trials"][0]
        }
        scores = [np.nan if score is None else score for score in row["scores"]]
        trials = trials._replace(hparams=hparams)
        state, decision = tuner.tell(state, trials, np.float32(scores))
        assert decision.branch == row["branch"]
