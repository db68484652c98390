"""Flax NNX: a perceptron on digits, its learning rate tuned while it trains.

python examples/flax_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from hyperdyn_jax import LogUniform, SearchSpace, optimizers, tune
from hyperdyn_jax.data.dataset import load_digits

EPOCHS, STEPS_PER_EPOCH, BATCH = 20, 40, 32
images, labels = load_digits()
images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
train_set = images[:1280], labels[:1280]
validation_set = images[1280:], labels[1280:]

rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(64, 64, rngs=rngs), nnx.relu,
                       nnx.Linear(64, 10, rngs=rngs))  # fmt: skip
# Modules change in place, and trials must not: the tuner sees the split-off state.
graph, params = nnx.split(model)
optimizer = optimizers.create_optimizer(
    "sgd", {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
)


def loss(params, data):
    logits = nnx.merge(graph, params)(data[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, data[1]).mean()


@jax.jit
def train_step(params, opt_state, step):
    key = jax.random.fold_in(jax.random.key(1), step)  # batches by the step's number
    rows = jax.random.choice(key, len(train_set[0]), (BATCH,))
    batch = jax.tree.map(lambda x: x[rows], train_set)
    updates, opt_state = optimizer.update(
        jax.grad(loss)(params, batch), opt_state, params
    )
    return optax.apply_updates(params, updates), opt_state


def train(state, hparams, steps):
    params, opt_state = state
    opt_state = optimizers.set_hyperparams(opt_state, hparams)
    for step in steps:
        params, opt_state = train_step(params, opt_state, step)
    return params, opt_state


def evaluate(state):
    params, _ = state
    return float(loss(params, validation_set))


state = params, optimizer.init(params)
start = {"learning_rate": 1e-3}
space = SearchSpace(learning_rate=LogUniform(1e-4, 1.0))
result = tune(train, evaluate, state, space, epochs=EPOCHS, base=start, minimize=True,
              steps_per_epoch=STEPS_PER_EPOCH, key=jax.random.key(2))  # fmt: skip
model = nnx.merge(graph, result.state[0])  # the trained module

total = EPOCHS * STEPS_PER_EPOCH  # every trial counted
plain = evaluate(train(state, start, range(total)))
print(f"loss {result.score:.4f} tuned, {plain:.4f} untuned, {total} steps each")
