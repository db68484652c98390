"""P1, P2: the time of one decision against Optuna's and BoTorch's.

    pip install -e ".[bench]"
    python benchmarks/decision.py

Time: a decision of Hyperdyn (ask and tell), one of Optuna's GPSampler, one of BoTorch
as its README has it (SingleTaskGP, LogExpectedImprovement, optimize_acqf), in turn in
one process, with as many observations of the same noisy function; Optuna's once more on
one thread, as threads of BLAS and torch wait for each other. The peers' sets grow by
one with every decision; Hyperdyn's capacity is the count, so that each decision adds
two and drops the two oldest (20 is rounded up to 32). The limit is the arithmetic that
is left if everything else is free: n^3 for each gradient of the likelihood, a third for
each value, and n^2 for each point predicted, at the rate of this machine's dgemm.

Also: programs that XLA compiles after the first decision, and the time of a decision
along a run.
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botorch
import gpytorch
import jax
import numpy as np
import optuna
import record
import threadpoolctl
import torch

from hyperdyn_jax import Hyperdyn, SearchSpace, Uniform
from hyperdyn_jax.strategies.hyperdyn import FIT_STEPS
from hyperdyn_jax.tuner import acquisition

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import oracle

COUNTS, DIMENSIONS, PAIRS = (20, 64, 128, 200, 400), (2, 3, 4), 15
START = 5  # random points before the first decision
RESULTS = Path(__file__).with_name("results")

Decide = Callable[[], None]


def gain(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A peak of 5 points at 0.3 on every axis, with noise of 0.5: [..., d] -> [...]."""
    peak = 5 * np.exp(-4 * np.sum((points - 0.3) ** 2, axis=-1))
    return peak + rng.normal(0, 0.5, np.shape(peak))


# Time.


def space(dimensions: int) -> SearchSpace:
    return SearchSpace(**{f"x{i}": Uniform(0.0, 1.0) for i in range(dimensions)})


def points_of(tuner: Hyperdyn, trials: Any) -> np.ndarray:
    return np.stack([trials.hparams[name] for name in tuner.space], axis=-1)


def hyperdyn(count: int, dimensions: int, capacity: int = 0) -> tuple[Decide, Decide]:
    """A function that makes one decision, with `count` observations behind it, and one
    that checks what the last has been."""
    capacity = capacity or -(-count // 16) * 16
    tuner = Hyperdyn(space(dimensions), capacity=capacity)
    rng = np.random.default_rng(0)
    state = tuner.init(jax.random.key(0), 10.0)
    data, last = state.data, None
    points = rng.uniform(size=(count, dimensions)).astype(np.float32)
    for i in range(0, count, 2):
        gains = gain(points[i : i + 2], rng).astype(np.float32)
        data = data.append(points[i : i + 2], i // 2, gains)
    incumbent = dict(zip(tuner.space, points[0], strict=True))
    state = state._replace(epoch=np.int32(count // 2), data=data, incumbent=incumbent)

    def decide() -> None:
        nonlocal state, last
        trials = tuner.ask(state)
        last = state, trials
        scores = state.history[-1] + gain(points_of(tuner, trials), rng)
        state, _ = tuner.tell(state, trials, scores)

    def check() -> None:
        """The posterior is NumPy's, and no random point has a larger improvement."""
        before, trials = last
        rows = before.data.feasible
        data = (
            before.data.points[rows],
            before.data.epochs[rows],
            before.data.gains[rows],
        )
        if capacity == count and int(rows.sum()) != count:
            raise RuntimeError(f"{int(rows.sum())} observations instead of {count}")
        natural = {
            "length_scales": np.float64(trials.model["length_scale"]),
            "amplitude": float(trials.model["amplitude"]),
            "noise": float(trials.model["noise"]),
        }
        asked = np.concatenate(
            [points_of(tuner, trials), rng.random((500, dimensions))]
        )
        epochs = np.full(len(asked), float(before.epoch))
        mean, stddev = oracle.posterior(*data, asked, epochs, **natural)
        found = np.stack([trials.posterior_mean, trials.posterior_stddev])
        expected = np.stack([mean[:2], stddev[:2]])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * stddev.max())
        values = oracle.log_expected_improvement(mean, stddev, data[2].max())
        if values[1] < values[2:].max() + math.log(0.99):
            raise RuntimeError("a random point is better than the challenger")

    return decide, check


def gp_sampler(count: int, dimensions: int) -> tuple[Decide, Decide]:
    """The same with Optuna's Gaussian process."""
    names = [f"x{i}" for i in range(dimensions)]
    axes = {name: optuna.distributions.FloatDistribution(0, 1) for name in names}
    study = optuna_study(0)
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

    def check() -> None:
        trials = study.get_trials(deepcopy=False)
        inside = all(0 <= x <= 1 for x in trials[-1].params.values())
        if not inside or len(trials) != count + 1 + PAIRS:
            raise RuntimeError("Optuna did not decide what it was asked")

    return decide, check


def optuna_study(seed: int) -> optuna.Study:
    sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=START)
    return optuna.create_study(direction="maximize", sampler=sampler)


def single_task(count: int, dimensions: int) -> tuple[Decide, Decide]:
    """The same with BoTorch."""
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(count, dimensions))
    gains = gain(points, rng)

    def decide() -> None:
        nonlocal points, gains
        point = botorch_point(points, gains)
        points = np.concatenate([points, point[None]])
        gains = np.append(gains, gain(point, rng))

    def check() -> None:
        inside = np.all((points[-1] >= 0) & (points[-1] <= 1))
        if not inside or len(gains) != count + 1 + PAIRS:
            raise RuntimeError("BoTorch did not decide what it was asked")

    return decide, check


def botorch_point(points: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """The next point, by the example in BoTorch's README."""
    X, Y = torch.from_numpy(points), torch.from_numpy(gains)[:, None]
    dimensions = X.shape[1]
    model = botorch.models.SingleTaskGP(
        train_X=X,
        train_Y=Y,
        input_transform=botorch.models.transforms.Normalize(d=dimensions),
        outcome_transform=botorch.models.transforms.Standardize(m=1),
    )
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    botorch.fit.fit_gpytorch_mll(mll)
    candidate, _ = botorch.optim.optimize_acqf(
        botorch.acquisition.LogExpectedImprovement(model=model, best_f=Y.max()),
        bounds=torch.stack([torch.zeros(dimensions), torch.ones(dimensions)]).double(),
        q=1,
        num_restarts=5,
        raw_samples=20,
    )
    return candidate[0].numpy()


def seconds(function: Decide) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def on_one_thread(make: Callable[..., tuple[Decide, Decide]]) -> Any:
    """The same without threads of BLAS and torch, which wait for each other."""

    def made(count: int, dimensions: int) -> tuple[Decide, Decide]:
        decide, check = make(count, dimensions)
        libraries = threadpoolctl.ThreadpoolController()

        def alone() -> None:
            with libraries.limit(limits=1):
                decide()

        return alone, check

    return made


CONTENDERS = {
    "hyperdyn": hyperdyn,
    "optuna": gp_sampler,
    "optuna_one_thread": on_one_thread(gp_sampler),
    "botorch": single_task,
}


def in_turn(count: int, dimensions: int, rate: float) -> dict[str, float]:
    """Milliseconds of each, in turn: quartiles, and the ratio of a pair to ours."""
    made = [make(count, dimensions) for make in CONTENDERS.values()]
    for decide, _ in made:  # compiles, and whatever else happens once
        decide()
    times = 1e3 * np.array([[seconds(f) for f, _ in made] for _ in range(PAIRS)])
    for _, check in made:
        check()
    row: dict[str, float] = {"n": count, "d": dimensions}
    for name, mine in zip(CONTENDERS, times.T, strict=True):
        low, middle, high = np.quantile(mine, (0.25, 0.5, 0.75))
        row |= {f"{name}_ms": middle, f"{name}_q25": low, f"{name}_q75": high}
    for name, column in (("ratio", 1), ("one_thread_ratio", 2), ("botorch_ratio", 3)):
        ratios = np.quantile(times[:, column] / times[:, 0], (0.25, 0.5, 0.75))
        row |= {f"{name}_q25": ratios[0], name: ratios[1], f"{name}_q75": ratios[2]}
    return row | {"limit_ms": 1e3 * operations(count) / rate}


def operations(count: int) -> float:
    """Floating-point operations of a decision that cannot be left out, at most."""
    gradients, values = FIT_STEPS + 1, 2 + 1  # both starts, and the posterior
    search = acquisition.maximize.__kwdefaults__
    points = search["candidates"] + 2 * search["starts"] * (search["max_steps"] + 1)
    return (gradients + values / 3) * count**3 + points * count**2


def gemm_rate(size: int = 1024, repeats: int = 5) -> float:
    """Operations a second of NumPy's product of float64 matrices, the best of a few."""
    matrix = np.random.default_rng(0).random((size, size))
    return 2 * size**3 / min(seconds(lambda: matrix @ matrix) for _ in range(repeats))


# Along a run.


def along_a_run(epochs: int, capacity: int) -> dict[str, float]:
    """Compilations after the first decision, and whether decisions become slower."""
    compiled = 0

    def listen(event: str, _: float, **__: object) -> None:
        nonlocal compiled
        compiled += event == "/jax/core/compile/backend_compile_duration"

    decide, check = hyperdyn(4, 2, capacity)
    decide()
    jax.monitoring.register_event_duration_secs_listener(listen)
    times = [seconds(decide) * 1e3 for _ in range(epochs)]
    jax.monitoring.unregister_event_duration_listener(listen)
    check()
    slope = np.polyfit(np.arange(epochs), times, 1)[0]
    return {
        "epochs": epochs,
        "capacity": capacity,
        "compilations_after_the_first": compiled,
        "first_hundred_ms": statistics.median(times[:100]),
        "last_hundred_ms": statistics.median(times[-100:]),
        "growth_ms_per_epoch": float(slope),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "decision.json")
    parser.add_argument("--epochs", type=int, default=1000, help="of the long run")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rate, rows = gemm_rate(), []
    for dimensions in DIMENSIONS:
        for count in COUNTS:
            rows.append(in_turn(count, dimensions, rate))
            print({k: round(float(v), 2) for k, v in rows[-1].items()}, flush=True)
    run = along_a_run(arguments.epochs, capacity=256)
    print(run)
    results = {"gemm_gflops": rate / 1e9, "decision": rows, "run": run}
    versions = ("jax", "tinygp", "optuna", "botorch", "torch", "scipy", "numpy")
    record.write(arguments.output, versions, results)


if __name__ == "__main__":
    main()
