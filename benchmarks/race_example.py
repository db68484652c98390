"""One race, as the README's picture shows it, and its base alone.

    python -m benchmarks.race_example

The suite's transformer on the text of Python's standard library, Adam, 1,000 steps. The
race is told a learning rate that is ten times too large; the same rate alone, without a
tuner, is trained beside it. The record has every trial and every accepted stretch.
"""

import jax

from benchmarks import record
from benchmarks.archive import RESULTS
from benchmarks.suite import workloads
from hyperdyn_jax import LogUniform, SearchSpace, tune

WORKLOAD, SEED, TOO_LARGE, STRETCHES = "transformer", 7, 10, 40


def main() -> None:
    work = workloads.load(WORKLOAD, "", SEED)
    own, each = work.usual * TOO_LARGE, work.steps // STRETCHES
    result = tune(
        work.train,
        work.evaluate,
        work.init(jax.random.key(SEED)),
        SearchSpace(learning_rate=LogUniform(*work.rates)),
        epochs=STRETCHES,
        steps_per_epoch=each,
        key=jax.random.key(SEED),
        base=own,
    )
    state, alone = work.init(jax.random.key(SEED)), []
    for start in range(0, work.steps, each):
        steps = range(start, start + each)
        state = work.train(state, {"learning_rate": own}, steps)
        alone.append([steps.stop, -work.evaluate(state)])
    record.write(
        RESULTS / "race_example.json",
        ["jax", "jaxlib", "optax"],
        {
            "workload": WORKLOAD,
            "seed": SEED,
            "own": own,
            "alone": alone,
            "loss": -result.score,
            "test": {"race": -work.test(result.state), "alone": -work.test(state)},
            "metrics": result.metrics,
            "decisions": result.decisions,
        },
    )


if __name__ == "__main__":
    main()
