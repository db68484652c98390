"""P1, P2: one decision (fit and expected-improvement maximum) against Optuna's.

    pip install -e ".[bench]"
    python benchmarks/decision.py

For n observations in d dimensions, in turn in one process: a decision of Hyperdyn (ask
and tell) and one of Optuna's GPSampler (ask and tell) with the same number of random
observations of the same noisy function. Every decision adds its own: ours two, Optuna's
one. Also: programs that XLA compiles after the first decision, and the time of a
decision along a run.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optuna
import record

from hyperdyn_jax import Hyperdyn, SearchSpace, Uniform

COUNTS, DIMENSIONS, PAIRS = (20, 64, 128, 200, 400), (2, 3, 4), 15
RESULTS = Path(__file__).with_name("results")


def gain(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A peak of 5 points at 0.3 on every axis, with noise of 0.5: [..., d] -> [...]."""
    peak = 5 * np.exp(-4 * np.sum((points - 0.3) ** 2, axis=-1))
    return peak + rng.normal(0, 0.5, np.shape(peak))


def hyperdyn(count: int, dimensions: int, capacity: int = 0) -> Callable[[], None]:
    """A function that makes one decision, with `count` observations behind it."""
    names = [f"x{i}" for i in range(dimensions)]
    # Room for what the decisions themselves add, rounded up as the loop rounds it.
    capacity = capacity or -(-(count + 2 * PAIRS + 4) // 16) * 16
    space = SearchSpace(**{name: Uniform(0.0, 1.0) for name in names})
    tuner, rng = Hyperdyn(space, capacity=capacity), np.random.default_rng(0)
    state = tuner.init(jax.random.key(0), 10.0)
    data = state.data
    points = rng.uniform(size=(count, dimensions)).astype(np.float32)
    for i in range(0, count, 2):
        gains = gain(points[i : i + 2], rng).astype(np.float32)
        data = data.append(points[i : i + 2], i // 2, gains)
    incumbent = dict(zip(names, points[0], strict=True))
    state = state._replace(epoch=np.int32(count // 2), data=data, incumbent=incumbent)

    def decide() -> None:
        nonlocal state
        trials = tuner.ask(state)
        tried = np.stack([trials.hparams[name] for name in names], axis=-1)
        state, _ = tuner.tell(state, trials, state.history[-1] + gain(tried, rng))

    return decide


def gp_sampler(count: int, dimensions: int) -> Callable[[], None]:
    """The same with Optuna's Gaussian process."""
    names = [f"x{i}" for i in range(dimensions)]
    axes = {name: optuna.distributions.FloatDistribution(0, 1) for name in names}
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.GPSampler(seed=0)
    )
    rng = np.random.default_rng(0)
    for point in rng.uniform(size=(count, dimensions)):
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(zip(names, point, strict=True)),
                distributions=axes,
                value=float(gain(point, rng)),
            )
        )

    def decide() -> None:
        trial = study.ask(axes)
        point = np.array([trial.params[name] for name in names])
        study.tell(trial, float(gain(point, rng)))

    return decide


def seconds(function: Callable[[], None]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def pairs(count: int, dimensions: int) -> dict[str, float]:
    """Milliseconds of both, in turn: medians, and the median ratio of a pair."""
    mine, theirs = hyperdyn(count, dimensions), gp_sampler(count, dimensions)
    for warm_up in (mine, theirs):
        warm_up()
    times = np.array([(seconds(mine), seconds(theirs)) for _ in range(PAIRS)]) * 1e3
    ratios = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
    return {
        "n": count,
        "d": dimensions,
        "hyperdyn_ms": statistics.median(times[:, 0]),
        "optuna_ms": statistics.median(times[:, 1]),
        **dict(zip(("ratio_q25", "ratio", "ratio_q75"), ratios, strict=True)),
    }


def along_a_run(epochs: int, capacity: int) -> dict[str, float]:
    """Compilations after the first decision, and whether decisions become slower."""
    compiled = 0

    def listen(event: str, _: float, **__: object) -> None:
        nonlocal compiled
        compiled += event == "/jax/core/compile/backend_compile_duration"

    decide = hyperdyn(4, 2, capacity)
    decide()
    jax.monitoring.register_event_duration_secs_listener(listen)
    times = [seconds(decide) * 1e3 for _ in range(epochs)]
    jax.monitoring.unregister_event_duration_listener(listen)
    return {
        "epochs": epochs,
        "capacity": capacity,
        "compilations_after_the_first": compiled,
        "first_hundred_ms": statistics.median(times[:100]),
        "last_hundred_ms": statistics.median(times[-100:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "decision.json")
    parser.add_argument("--epochs", type=int, default=1000, help="of the long run")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    rows = []
    for dimensions in DIMENSIONS:
        for count in COUNTS:
            rows.append(pairs(count, dimensions))
            print({k: round(float(v), 2) for k, v in rows[-1].items()}, flush=True)
    run = along_a_run(arguments.epochs, capacity=256)
    print(run)
    versions = ("jax", "tinygp", "optax", "optuna", "torch", "scipy", "numpy")
    record.write(arguments.output, versions, {"decision": rows, "run": run})


if __name__ == "__main__":
    main()
