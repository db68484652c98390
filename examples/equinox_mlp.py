"""Equinox: a perceptron on digits, its learning rate tuned while it trains.

pip install equinox && python examples/equinox_mlp.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from hyperdyn_jax import LogUniform, SearchSpace, optimizers, tune
from hyperdyn_jax.data.dataset import load_digits

EPOCHS, STEPS_PER_EPOCH, BATCH = 20, 40, 32
images, labels = load_digits()
images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
train_set = images[:1280], labels[:1280]
validation_set = images[1280:], labels[1280:]

model = eqx.nn.MLP(64, 10, width_size=64, depth=1, key=jax.random.key(0))
# The tuner takes any pytree; the optimizer only arrays.
params, static = eqx.partition(model, eqx.is_inexact_array)
optimizer = optimizers.create_optimizer(
    "sgd", {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
)


def loss(params, data):
    logits = jax.vmap(eqx.combine(params, static))(data[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, data[1]).mean()


@eqx.filter_jit
def train_step(params, opt_state, step):
    key = jax.random.fold_in(jax.random.key(1), step)  # batches by the step's number
    rows = jax.random.choice(key, len(train_set[0]), (BATCH,))
    batch = jax.tree.map(lambda x: x[rows], train_set)
    grads = eqx.filter_grad(loss)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return eqx.apply_updates(params, updates), opt_state


def train(state, hparams, steps):
    params, opt_state = state
    opt_state = optimizers.set_hyperparams(opt_state, hparams)
    for step in steps:
        params, opt_state = train_step(params, opt_state, jnp.int32(step))
    return params, opt_state


def evaluate(state):
    params, _ = state
    return float(loss(params, validation_set))


state = params, optimizer.init(params)
start = {"learning_rate": 1e-3}
space = SearchSpace(learning_rate=LogUniform(1e-4, 1.0))
result = tune(train, evaluate, state, space, epochs=EPOCHS, base=start, minimize=True,
              steps_per_epoch=STEPS_PER_EPOCH, key=jax.random.key(2))  # fmt: skip
model = eqx.combine(result.state[0], static)  # the trained module

total = EPOCHS * STEPS_PER_EPOCH  # every trial counted
plain = evaluate(train(state, start, range(total)))
print(f"loss {result.score:.4f} tuned, {plain:.4f} untuned, {total} steps each")
