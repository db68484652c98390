"""P1: what a decision is worth: regret on five noisy functions, beside Optuna's and
BoTorch's.

    pip install -e ".[bench]"
    python benchmarks/regret.py

All on the unit cube. Hyperdyn spends every second evaluation on its incumbent, which in
training is the run itself: so both with as many evaluations as the peers and with as
many decisions, each of which a challenger is. With the paper's time kernel, and with
one that hardly forgets, as four of the functions stand still and one moves slowly; its
alpha was chosen on other seeds.
"""

import argparse
import functools
import math
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optuna
import record
import threadpoolctl
import torch
from decision import RESULTS, START, botorch_point, optuna_study, points_of, space

from hyperdyn_jax import Hyperdyn

BUDGET = 41  # evaluations
SEEDS, SLOW_SEEDS = 30, 10  # runs of a player; of BoTorch, which takes 11 s a run


def branin(x: np.ndarray, _: float) -> np.ndarray:
    a, b = 15 * x[..., 0] - 5, 15 * x[..., 1]
    hollow = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    value = hollow**2 + 10 * (1 - 1 / (8 * math.pi)) * np.cos(a) + 10
    return (0.397887 - value) / 10  # its range is about 300


def hartmann(x: np.ndarray, _: float) -> np.ndarray:
    sharpness = np.array([[3.0, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
    peaks = [
        [0.3689, 0.1170, 0.2673],
        [0.4699, 0.4387, 0.7470],
        [0.1091, 0.8732, 0.5547],
        [0.0381, 0.5743, 0.8828],
    ]
    squares = sharpness * (x[..., None, :] - np.array(peaks)) ** 2
    value = np.exp(-squares.sum(-1)) @ np.array([1.0, 1.2, 3.0, 3.2])
    return 2 * (value - 3.86278)


def ackley(x: np.ndarray, _: float) -> np.ndarray:
    """Centred at (0.7, 0.4), 5 to either side."""
    z = 10 * (x - np.array([0.7, 0.4]))
    waves = np.exp(np.cos(2 * math.pi * z).mean(-1))
    return 20 * np.exp(-0.2 * np.sqrt((z**2).mean(-1))) + waves - 20 - math.e


def drifting(x: np.ndarray, share: float) -> np.ndarray:
    """A peak that wanders over most of the plane within a run, as a good rate does."""
    peak = np.array([0.9 - 0.7 * share, 0.3 + 0.4 * share])
    return 5 * np.exp(-8 * ((x - peak) ** 2).sum(-1)) - 5


def valley(x: np.ndarray, _: float) -> np.ndarray:
    """Of learning rate, momentum, decay and another: what counts is the product of the
    first two up to a cliff; the third matters a little and the last hardly."""
    effective = x[..., 0] + 0.6 * x[..., 1] - 0.9
    ripple = 4 * (x[..., 2] - 0.6) ** 2 + 0.3 * (x[..., 3] - 0.5) ** 2
    short = 12 * effective**2 + 1.5 * (x[..., 1] - 0.8) ** 2 + ripple
    cliff = 8 / (1 + np.exp(-60 * (effective - 0.2)))
    return -short - cliff


# By name: the function, gain at (points, share of the run so far), 0 at best; its axes,
# and the deviation of its noise.
FUNCTIONS = {
    "branin": (branin, 2, 0.5),
    "hartmann3": (hartmann, 3, 0.3),
    "ackley2": (ackley, 2, 0.5),
    "drifting peak": (drifting, 2, 0.3),
    "rate valley": (valley, 4, 0.3),
}
Noisy = Callable[[np.ndarray], np.ndarray]


def by_hyperdyn(alpha: float, name: str, seed: int, budget: int, noisy: Noisy) -> None:
    """As in a run: the incumbent and a challenger an epoch, switching always, which is
    the paper's epoch-based optimisation."""
    axes = space(FUNCTIONS[name][1])
    tuner = Hyperdyn(axes, START, capacity=80, offset=math.inf, alpha=alpha)
    state = tuner.init(jax.random.key(seed), 50.0)
    while budget > 0:
        trials = tuner.ask(state)
        gains = noisy(points_of(tuner, trials))
        budget -= len(gains)
        state, _ = tuner.tell(state, trials, state.history[-1] + gains)


def by_optuna(name: str, seed: int, budget: int, noisy: Noisy) -> None:
    names = [f"x{i}" for i in range(FUNCTIONS[name][1])]
    axes = {n: optuna.distributions.FloatDistribution(0, 1) for n in names}
    study = optuna_study(seed)
    for _ in range(budget):
        trial = study.ask(axes)
        point = np.array([[trial.params[n] for n in names]])
        study.tell(trial, float(noisy(point)[0]))


def by_botorch(name: str, seed: int, budget: int, noisy: Noisy) -> None:
    torch.manual_seed(seed)
    points = np.random.default_rng(seed).random((START, FUNCTIONS[name][1]))
    gains = noisy(points)
    while len(gains) < budget:
        point = botorch_point(points, gains)
        points = np.concatenate([points, point[None]])
        gains = np.append(gains, noisy(point[None]))


AS_MANY_DECISIONS = START + 2 * (BUDGET - START)
FORGETS, REMEMBERS = (functools.partial(by_hyperdyn, alpha) for alpha in (1.0, 0.005))
# By name: how, evaluations, and at most how many seeds.
PLAYERS = {
    "hyperdyn": (FORGETS, BUDGET, SEEDS),
    "hyperdyn, alpha 0.005": (REMEMBERS, BUDGET, SEEDS),
    "hyperdyn, as many decisions": (FORGETS, AS_MANY_DECISIONS, SEEDS),
    "hyperdyn, alpha 0.005, as many decisions": (REMEMBERS, AS_MANY_DECISIONS, SEEDS),
    "optuna": (by_optuna, BUDGET, SEEDS),
    "botorch": (by_botorch, BUDGET, SLOW_SEEDS),
}


def regret(name: str, player: str, seed: int) -> float:
    """By how much the point of the best observation falls short of the best there is.

    Where the best moves, that is of the last quarter, at the end of the run.
    """
    (function, dimensions, noise), (play, budget, _) = FUNCTIONS[name], PLAYERS[player]
    rng = np.random.default_rng(1000 + seed)
    asked, seen = np.zeros((0, dimensions)), np.zeros(0)

    def noisy(points: np.ndarray) -> np.ndarray:
        nonlocal asked, seen
        gains = function(np.float64(points), len(seen) / budget)
        gains = gains + rng.normal(0, noise, len(gains))
        asked, seen = np.concatenate([asked, points]), np.append(seen, gains)
        return gains

    play(name, seed, budget, noisy)
    if len(seen) != budget or not np.all((asked >= 0) & (asked <= 1)):
        raise RuntimeError(f"{player} made {len(seen)} evaluations of {name}")
    last = budget // 4 if function is drifting else budget
    return -float(function(asked[-last:][np.argmax(seen[-last:])], 1.0))


def regrets(seeds: int) -> list[dict[str, Any]]:
    """Of every player on every function: each seed's, and their mean with its error.

    Not timed, so on one thread, where a busy machine delays the peers least.
    """
    rows = []
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    for name in FUNCTIONS:
        for player, (_, _, most) in PLAYERS.items():
            found = [regret(name, player, seed) for seed in range(min(seeds, most))]
            error = statistics.stdev(found) / math.sqrt(len(found))
            row = {"function": name, "player": player, "mean": statistics.mean(found)}
            rows.append({**row, "standard_error": error, "regrets": found})
            print(f"{name}: {player} {row['mean']:.3f} +- {error:.3f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "regret.json")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    versions = ("jax", "tinygp", "optuna", "botorch", "torch", "scipy", "numpy")
    record.write(arguments.output, versions, regrets(arguments.seeds))


if __name__ == "__main__":
    main()
