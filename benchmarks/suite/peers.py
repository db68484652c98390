"""What needs no tuning, and other tuners, on the suite: at equal total steps.

    python -m benchmarks.suite.peers choose OUT.jsonl --seeds 0,1
    python -m benchmarks.suite.peers run OUT.jsonl TABLE-4.npz ... --from CHOSEN.jsonl

`choose` runs NadamW and SGD at a few rates on every workload, for the one setting that
is the best for the whole suite. `run` runs that and all peers on the seeds of tables.

Optimizers are those of Optax with their default settings. What belongs to the task
stays: clipping, accumulated batches, the decay of the weights, and a warm-up, which
multiplies the peer's rate. A run counts at its best validation loss of 40, as one that
stops early; the race does the same.

AutoLRS, PB2 and the paper's method run through `tune` on the same loop. Where they want
an accuracy, they are told the loss in percent of the untrained network's, below 100.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import numpy as np
import optax
from optax import contrib

from benchmarks.suite import plain, rows, workloads
from benchmarks.suite.curves import Curves, load
from benchmarks.suite.workload import Optimizer, State, Workload
from hyperdyn_jax import LogUniform, SearchSpace
from hyperdyn_jax.strategies.autolrs import AutoLRS
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn
from hyperdyn_jax.strategies.pb2 import PB2
from hyperdyn_jax.tuner.interface import Strategy
from hyperdyn_jax.tuning import tune

COLUMNS = ("peer", "workload", "seed", "rate")
# Of NadamW and SGD with momentum 0.9, after a warm-up of 5% along a cosine.
CANDIDATES = {
    "nadamw": (1e-3, 3e-3, 1e-2, 3e-2),
    "sgd": (0.015, 0.05, 0.15, 0.5),
}


class Peer(NamedTuple):
    """An optimizer in the place of the workload's own.

    of: its making, of the workload; None is the workload's own.
    rate: the default of its package by family, or None for the textbook's.
    shape: of the rate, one of `plain.SCHEDULES`.
    """

    of: Callable[[Workload], Optimizer] | None
    rate: float | dict[str, float] | None
    shape: str = "constant"


def prodigy(work: Workload) -> Optimizer:
    return lambda rate: contrib.prodigy(rate, weight_decay=work.decay)


def dadapt(work: Workload) -> Optimizer:
    return lambda rate: contrib.dadapt_adamw(rate, weight_decay=work.decay)


def mechanic(work: Workload) -> Optimizer:
    return lambda rate: contrib.mechanize(work.optimizer(rate))


def schedule_free(work: Workload) -> Optimizer:
    if work.family == "sgd":
        return contrib.schedule_free_sgd
    return lambda rate: contrib.schedule_free_adamw(rate, weight_decay=work.decay)


def momo(work: Workload) -> Optimizer:
    if work.family == "sgd":
        return contrib.momo
    return lambda rate: contrib.momo_adam(rate, weight_decay=work.decay)


def nadamw(work: Workload) -> Optimizer:
    return lambda rate: optax.nadamw(rate, weight_decay=work.decay)


def sgd(_: Workload) -> Optimizer:
    return lambda rate: optax.sgd(rate, 0.9)


# Optax advises to lower the rate of the first three along the run.
PEERS = {
    "prodigy": Peer(prodigy, 1.0),
    "prodigy_cosine": Peer(prodigy, 1.0, "cosine"),
    "dadapt": Peer(dadapt, 1.0),
    "dadapt_cosine": Peer(dadapt, 1.0, "cosine"),
    "mechanic": Peer(mechanic, 1.0),
    "mechanic_cosine": Peer(mechanic, 1.0, "cosine"),
    "schedule_free": Peer(schedule_free, {"sgd": 1.0, "adam": 2.5e-3}),
    "momo": Peer(momo, {"sgd": 1.0, "adam": 1e-2}),
    "usual_cosine": Peer(None, None, "cosine"),
}
SUITE_WIDE = {
    "nadamw": Peer(nadamw, None, "warmed_cosine"),
    "sgd": Peer(sgd, None, "warmed_cosine"),
}


def tuners(space: SearchSpace) -> dict[str, tuple[Strategy, int, int]]:
    """Strategy, epochs and steps an epoch of each; all take 1,000 steps in total."""
    return {
        # Five stages: ten probes of 10 steps each, then 100 steps.
        "autolrs": (AutoLRS(space, stage=5.0, max_stage=5.0, segments=5), 25, 20),
        # Four members, ten epochs.
        "pb2": (PB2(space), 10, 25),
        # Five settings in the first epoch and two in each of the next ten.
        "hyperdyn": (Hyperdyn(space), 11, 40),
    }


def read_out(state: State) -> State:
    """What an optimizer wants to be scored: of schedule-free its average."""
    kind = contrib.ScheduleFreeState
    leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda x: isinstance(x, kind))
    for leaf in leaves:
        if isinstance(leaf, kind):
            params = contrib.schedule_free_eval_params(leaf, state.params)
            return state._replace(params=params)
    return state


def run_peer(work: Workload, peer: Peer, rate: float, seed: int) -> plain.Run:
    """A peer in the place of the workload's optimizer."""
    task = work if peer.of is None else work.remade(peer.of(work))
    # Of the workload's own optimizer, and so of Mechanic's, it is inside.
    outside = peer.of in (prodigy, dadapt, schedule_free, momo)
    warmup = work.warmup if outside else 0
    return plain.train(task, rate, peer.shape, seed, read_out, warmup)


def run_tuner(work: Workload, name: str, seed: int) -> plain.Run:
    """A tuner on the workload's own loop; steps are those of all trials."""
    space = SearchSpace(learning_rate=LogUniform(*work.rates))
    strategy, epochs, each = tuners(space)[name]
    state = work.init(jax.random.key(seed))
    start = -work.evaluate(state)
    accuracy = strategy.metric == "accuracy"

    def score(state: State) -> float:
        loss = -work.evaluate(state)
        return 100 * (1 - loss / abs(start)) if accuracy else -loss

    states = [state]
    result = tune(
        work.train, score, state, strategy, epochs=epochs, steps_per_epoch=each,
        key=jax.random.key(seed), callback=lambda state, _: states.append(state),
    )  # fmt: skip
    ends = [(0, start)]
    ends += [
        (row["total_steps"], -work.evaluate(state))
        for row, state in zip(result.metrics, states[1:], strict=True)
    ]
    best = int(np.nanargmin([loss for _, loss in ends]))
    return plain.Run(ends, ends[best][1], -work.test(states[best]), ends[-1][1])


def row(name: str, work: Workload, seed: int, rate: float | None) -> rows.Row:
    """A run of a peer, or of a tuner."""
    began = time.monotonic()
    if rate is None:
        found = run_tuner(work, name, seed)
    else:
        found = run_peer(work, (PEERS | SUITE_WIDE)[name], rate, seed)
    return {
        "peer": name,
        "workload": work.name,
        "seed": seed,
        "rate": rate,
        "loss": found.loss,
        "test_loss": found.test,
        "last": found.last if math.isfinite(found.last) else None,
        "total_steps": found.losses[-1][0],
        "losses": [x for x in found.losses if math.isfinite(x[1])],
        "seconds": time.monotonic() - began,
    }


def rate_of(peer: Peer, work: Workload) -> float:
    if peer.rate is None:
        return work.usual
    return peer.rate[work.family] if isinstance(peer.rate, dict) else peer.rate


def chosen(path: Path) -> dict[str, float]:
    """The rate of NadamW and of SGD that is the best for the whole suite.

    The best has the least geometric mean of the loss over the least of all candidates,
    run by run; a loss that nears zero counts by what was gained (`Curves.unit`).
    """
    runs: dict[tuple[str, int], dict[tuple[str, float], rows.Row]] = {}
    for each in rows.read(path):
        runs.setdefault((each["workload"], each["seed"]), {})[
            each["peer"], each["rate"]
        ] = each
    means: dict[tuple[str, float], float] = {}
    for peer, rates in CANDIDATES.items():
        for rate in rates:
            logs = []
            for found in runs.values():
                best = min(x["loss"] for x in found.values())
                start = found[peer, rate]["losses"][0][1]
                unit = best if best > 0.1 * start > 0 else start - best
                logs.append(math.log1p((found[peer, rate]["loss"] - best) / unit))
            means[peer, rate] = float(np.mean(logs))
    return {
        peer: min(rates, key=lambda rate: means[peer, rate])
        for peer, rates in CANDIDATES.items()
    }


def choose(out: Path, data_dir: str, seeds: list[int], names: list[str]) -> None:
    known = rows.Rows(out, *COLUMNS)
    for seed in seeds:
        for name in names:
            work = workloads.load(name, data_dir, seed)
            for peer, rates in CANDIDATES.items():
                for rate in rates:
                    about = {"peer": peer, "workload": name, "seed": seed, "rate": rate}
                    if about not in known:
                        known.add(row(peer, work, seed, rate))
                        print(about, flush=True)
    print(chosen(out))


def run(out: Path, data_dir: str, tables: list[str], best: dict[str, float]) -> None:
    known = rows.Rows(out, *COLUMNS)
    for path in tables:
        curves = load(path)
        name, _, seed = curves.name.rpartition("-")
        work = workloads.load(name, data_dir, int(seed))
        wanted: dict[str, float | None] = {x: rate_of(PEERS[x], work) for x in PEERS}
        wanted |= best
        wanted |= dict.fromkeys(tuners(SearchSpace(x=LogUniform(1, 2))))
        for peer, rate in wanted.items():
            about = {"peer": peer, "workload": name, "seed": int(seed), "rate": rate}
            if about not in known:
                _add(known, curves, row(peer, work, int(seed), rate))


def _add(known: rows.Rows, curves: Curves, found: dict[str, Any]) -> None:
    ratio = curves.ratio(found["loss"])
    known.add(found | {"ratio": ratio, "target": curves.target})
    print(
        f"{found['workload']} {found['peer']}: {ratio:.3f}, last {found['last']}, "
        f"{found['total_steps']} steps, {found['seconds']:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("choose", "run"))
    parser.add_argument("out", type=Path)
    parser.add_argument("tables", nargs="*")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--seeds", default="0,1", help="to choose on")
    parser.add_argument("--on", default=",".join(workloads.NAMES), help="the same")
    parser.add_argument("--from", dest="chosen", type=Path, help="what `choose` wrote")
    options = parser.parse_args()
    if options.what == "choose":
        seeds = [int(seed) for seed in options.seeds.split(",")]
        choose(options.out, options.data_dir, seeds, options.on.split(","))
    else:
        best = chosen(options.chosen) if options.chosen else {}
        run(options.out, options.data_dir, options.tables, best)


if __name__ == "__main__":
    main()
