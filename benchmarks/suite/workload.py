"""What a workload of the suite is, and how one is made of a loss and an optimizer."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any
Optimizer = Callable[[Any], optax.GradientTransformation]  # of the learning rate


class State(NamedTuple):
    """What training carries: f32 weights and the optimizer's state."""

    params: Tree
    opt_state: Any


class Workload(NamedTuple):
    """A loop that `hyperdyn_jax.tune` can run.

    name: of the file it is in.
    init: `init(key)` makes an untrained state.
    train: `train(state, hparams, steps)`, as `tune` calls it.
    evaluate: `evaluate(state)`, the score on validation data; more is better.
    test: the same on data that no decision sees.
    usual: the learning rate that a textbook would start from.
    rates: lowest and highest learning rate that is searched.
    steps: length of a run.
    family: "sgd" or "adam", what a user would train it with.
    optimizer: that, of the learning rate, without what `around` adds to it.
    decay: of the weights, a part of the task.
    warmup: steps over which the optimizer itself raises the rate.
    remade: `remade(optimizer)` is the same task with another optimizer in the place of
      its own. Clipping and accumulation stay; a warm-up goes with the optimizer.
    """

    name: str
    init: Callable[[jax.Array], State]
    train: Callable[[State, Mapping[str, Any], range], State]
    evaluate: Callable[[State], float]
    test: Callable[[State], float]
    usual: float
    rates: tuple[float, float]
    steps: int
    family: str
    optimizer: Optimizer
    decay: float
    warmup: int
    remade: Callable[[Optimizer], "Workload"]


class Data(NamedTuple):
    """Arrays of equal length, split in three."""

    train: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]


def make(
    name: str,
    data: Data,
    init: Callable[[jax.Array], Tree],
    loss: Callable[..., jax.Array],
    optimizer: Optimizer,
    *,
    batch: int,
    usual: float,
    rates: tuple[float, float],
    steps: int = 1000,
    seed: int = 0,
    around: Callable[..., optax.GradientTransformation] = lambda own: own,
    scored: Callable[..., jax.Array] | None = None,
    convolves: bool = False,
    family: str = "adam",
    decay: float = 0.0,
    warmup: int = 0,
) -> Workload:
    """A workload whose batches are a function of the step's number.

    Args:
      name: of the workload.
      data: arrays that `loss` takes.
      init: weights from a key.
      loss: `loss(params, key, *arrays)`, the mean over examples; with it, a network
        that has any returns the parts of `params` that no gradient trains.
      optimizer: of the learning rate.
      batch: examples a step.
      usual, rates, steps, family, decay, warmup: as in `Workload`.
      seed: of the batches.
      around: what the task adds to any optimizer, such as clipping.
      scored: the loss of a score, as `loss`, where that is another one.
      convolves: a program of its own for every step, as XLA's convolutions on a CPU
        take ten times as long within a loop.
    """
    tuned = optax.inject_hyperparams(
        lambda learning_rate: around(optimizer(learning_rate))
    )(learning_rate=usual)
    train, validation, test = (tuple(map(jnp.asarray, split)) for split in data)
    size = len(train[0])

    def with_rest(*arguments: Any) -> tuple[jax.Array, Tree]:
        value = loss(*arguments)
        return value if isinstance(value, tuple) else (value, {})

    # Data and seed are arguments, so that a program that is kept on disk serves others.
    def step(state: State, rate: jax.Array, i: Any, seed: int, data: Tree) -> State:
        draw, noise = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        rows = jax.random.randint(draw, (batch,), 0, size)
        gradient = jax.value_and_grad(with_rest, has_aux=True)
        (value, rest), grads = gradient(state.params, noise, *(x[rows] for x in data))
        own = state.opt_state._replace(hyperparams={"learning_rate": rate})
        updates, own = tuned.update(grads, own, state.params, value=value)
        params = optax.apply_updates(state.params, updates)
        return State(params | rest if rest else params, own)

    @jax.jit
    def several(
        state: State, rate: jax.Array, first: int, last: int, seed: int, data: Tree
    ) -> State:
        return jax.lax.fori_loop(
            first, last, lambda i, state: step(state, rate, i, seed, data), state
        )

    single = jax.jit(step)

    def step_range(state: State, hparams: Mapping[str, Any], steps: range) -> State:
        rate = jnp.asarray(hparams["learning_rate"], jnp.float32)
        if not convolves:
            return several(state, rate, steps.start, steps.stop, seed, train)
        for i in steps:
            state = single(state, rate, i, seed, train)
        return state

    def score(arrays: tuple[jax.Array, ...]) -> Callable[[State], float]:
        of = scored or loss
        mean = jax.jit(lambda params, data: of(params, jax.random.key(1), *data))
        return lambda state: -float(mean(state.params, arrays))

    def begin(key: jax.Array) -> State:
        params = init(key)
        return State(params, tuned.init(params))

    def remade(other: Optimizer) -> Workload:
        return make(
            name, data, init, loss, other, batch=batch, usual=usual, rates=rates,
            steps=steps, seed=seed, around=around, scored=scored,
            convolves=convolves, family=family, decay=decay,
        )  # fmt: skip

    return Workload(
        name, begin, step_range, score(validation), score(test), usual, rates, steps,
        family, optimizer, decay, warmup, remade,
    )  # fmt: skip


def dense(key: jax.Array, inputs: int, outputs: int, gain: float = 1.0) -> Tree:
    """Weights of a dense layer, with variance gain^2 / inputs."""
    weights = jax.random.normal(key, (inputs, outputs)) * gain / np.sqrt(inputs)
    return {"w": weights, "b": jnp.zeros(outputs)}


def apply(layer: Tree, x: jax.Array) -> jax.Array:
    return x @ layer["w"] + layer["b"]


def mlp(layers: list[Tree], x: jax.Array) -> jax.Array:
    """Dense layers with ReLU between them."""
    for layer in layers[:-1]:
        x = jax.nn.relu(apply(layer, x))
    return apply(layers[-1], x)


def mlp_init(key: jax.Array, sizes: list[int]) -> list[Tree]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        dense(k, i, o, 1.4 if n < len(sizes) - 2 else 1.0)
        for n, (k, i, o) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=True))
    ]


def normalized(x: jax.Array) -> jax.Array:
    """Layer normalisation without weights."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()
