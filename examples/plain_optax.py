"""Plain Optax on arrays: logistic regression, its learning rate and momentum tuned.

    python examples/plain_optax.py

Several settings train from the same weights on the same batches, for longer and longer,
and the run goes on from one of them. Scores are accuracies; for a loss give
minimize=True.
"""

import jax
import jax.numpy as jnp
import optax

from hyperdyn_jax import LogComplement, LogUniform, SearchSpace, tune
from hyperdyn_jax.data.dataset import load_digits

EPOCHS, STEPS_PER_EPOCH, BATCH = 20, 40, 32
images, labels = load_digits()
order = jax.random.permutation(jax.random.key(3), len(images))  # writers, mixed
images, labels = (
    jnp.asarray(images / 16, jnp.float32)[order],
    jnp.asarray(labels)[order],
)


def loss(weights, rows):
    logits = images[rows] @ weights
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()


@jax.jit
def train_step(weights, opt_state, hparams, step):
    # Hyperparameters are arguments: another value is not another program.
    optimizer = optax.sgd(hparams["learning_rate"], hparams["momentum"])
    key = jax.random.fold_in(jax.random.key(1), step)  # batches by the step's number
    rows = jax.random.choice(key, 1280, (BATCH,))
    updates, opt_state = optimizer.update(jax.grad(loss)(weights, rows), opt_state)
    return optax.apply_updates(weights, updates), opt_state


def train(state, hparams, steps):
    for step in steps:
        state = train_step(*state, hparams, step)
    return state


def evaluate(state):  # accuracy on the rest, in percentage points
    hits = jnp.argmax(images[1280:] @ state[0], axis=1) == labels[1280:]
    return 100 * float(hits.mean())


weights = jnp.zeros((64, 10))
state = weights, optax.sgd(1.0, 0.9).init(weights)
space = SearchSpace(
    learning_rate=LogUniform(1e-4, 1.0), momentum=LogComplement(0.0, 0.99)
)
result = tune(train, evaluate, state, space, epochs=EPOCHS,
              steps_per_epoch=STEPS_PER_EPOCH, key=jax.random.key(2))  # fmt: skip

total = EPOCHS * STEPS_PER_EPOCH  # every trial counted
start = {"learning_rate": jnp.float32(1e-3), "momentum": jnp.float32(0.0)}
plain = evaluate(train(state, start, range(total)))
print(f"{result.score:.4f}% tuned, {plain:.4f}% at a rate of 0.001, {total} steps each")
