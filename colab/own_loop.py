# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own training loop
#
# `tune` takes two functions of a training state, which is any pytree: one that trains
# and one that scores. Here the state is the parameters of an MLP and the optimizer's
# state.

# %%
# Installs the library if it is not there. If the notebook is in a copy of the
# repository, that copy is installed. On Colab there is none: write the address that you
# would give to `git clone` between the quotes.
REPOSITORY = ""
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("hyperdyn_jax") is None:
    places = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "hyperdyn_jax_clone"]
    root = next(
        (p for p in places if (p / "hyperdyn_jax" / "tuning.py").exists()), None
    )
    if root is None and not REPOSITORY:
        raise RuntimeError("write the repository's address into REPOSITORY, above")
    if root is None:
        root = places[-1]
        subprocess.run(["git", "clone", "--depth=1", REPOSITORY, root], check=True)
    # JAX for the accelerator that the runtime has.
    look = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    found = subprocess.run(look, capture_output=True, text=True).stdout.strip()
    extras = {"gpu": "[cuda12]", "tpu": "[tpu]"}.get(found, "")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "-e"]
    subprocess.run([*install, f"{root}{extras}"], check=True)
    sys.path.insert(0, str(root))  # where a new session would look
    importlib.invalidate_caches()

import jax

import hyperdyn_jax

ROOT = Path(hyperdyn_jax.__file__).parents[1]
print(f"jax {jax.__version__} on {jax.devices()}")

# %%
import os

import jax.numpy as jnp
import optax

from hyperdyn_jax import LogUniform, SearchSpace, optimizers, tune
from hyperdyn_jax.data.dataset import load_digits

EPOCHS = int(os.environ.get("EPOCHS", 20))
STEPS_PER_EPOCH, BATCH = 40, 32
images, labels = load_digits()
order = jax.random.permutation(jax.random.key(3), len(images))  # writers, mixed
images = jnp.asarray(images / 16, jnp.float32)[order]
labels = jnp.asarray(labels)[order]
train_set = images[:1280], labels[:1280]
validation_set = images[1280:], labels[1280:]


def logits(params, images):
    hidden = jax.nn.relu(images @ params["first"])
    return hidden @ params["last"]


@jax.jit
def loss(params, data):
    scores = logits(params, data[0])
    return optax.softmax_cross_entropy_with_integer_labels(scores, data[1]).mean()


# %% [markdown]
# Any Optax optimizer will do. The hyperparameters of this one can be set between two
# steps without compiling again.

# %%
optimizer = optimizers.create_optimizer(
    "sgd", {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
)


@jax.jit
def train_step(params, opt_state, step):
    key = jax.random.fold_in(jax.random.key(1), step)
    rows = jax.random.choice(key, 1280, (BATCH,))
    batch = jax.tree.map(lambda x: x[rows], train_set)
    gradients = jax.grad(loss)(params, batch)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


# %% [markdown]
# **Train.** `steps` is a range of step numbers. Take batches from these numbers, so
# that trials which are compared see the same batches. Never change the state in place.
#
# **Evaluate.** A score on data held out of training: here a loss, which `tune` is told
# of by `minimize=True`. The weights that it is given are averaged over the steps so
# far, as short trials of different learning rates are best compared on averaged
# weights.


# %%
def train(state, hparams, steps):
    params, opt_state = state
    opt_state = optimizers.set_hyperparams(opt_state, hparams)
    for step in steps:
        params, opt_state = train_step(params, opt_state, step)
    return params, opt_state


def evaluate(state):
    params, _ = state
    return float(loss(params, validation_set))


# %% [markdown]
# The learning rate to start from, the base, is far too small. In a race it and others
# train from the same start. It stays unless rates differ by a significance test, and
# another is expected to end better.

# %%
keys = jax.random.split(jax.random.key(0))
params = {
    "first": 0.1 * jax.random.normal(keys[0], (64, 64)),
    "last": 0.1 * jax.random.normal(keys[1], (64, 10)),
}
state = params, optimizer.init(params)
start = {"learning_rate": 1e-3}
space = SearchSpace(learning_rate=LogUniform(1e-4, 1.0))
result = tune(
    train, evaluate, state, space, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH,
    key=jax.random.key(2), base=start, minimize=True, workdir=f"runs/own_{EPOCHS}",
)  # fmt: skip

total = EPOCHS * STEPS_PER_EPOCH  # every trial counted
plain = evaluate(train(state, start, range(total)))
print(f"loss {result.score:.4f} tuned, the best epoch's, {result.best_epoch}")
print(f"loss {plain:.4f} at the base alone, {total} steps each")
assert result.score < plain

# %% [markdown]
# The rounds of the race: the rates that were tried, and their losses. The rate that the
# run goes on with may lie between two of them, and is often smaller than the best so
# far: the best rate falls while a network trains.

# %%
for row in result.decisions:
    if len(row["trials"]) == 1:  # an epoch of the run, without others
        continue
    for trial, score in zip(row["trials"], row["scores"], strict=True):
        print(f"round {row['epoch']}: {trial['learning_rate']:.2g}: {-score:.3f}")
middle = result.schedule["learning_rate"](total // 2)
print(f"the run: {float(middle):.2g}, lower at its end")

# %% [markdown]
# The same with another strategy, the paper's method. It takes accuracies in percentage
# points, of which more is better:
#
# ```python
# from hyperdyn_jax import Hyperdyn
#
#
# def accuracy(state):
#     images, labels = validation_set
#     return 100 * float((logits(state[0], images).argmax(1) == labels).mean())
#
#
# result = tune(train, accuracy, state, Hyperdyn(space), epochs=10,
#               steps_per_epoch=40, key=jax.random.key(2))
# ```
