"""Training loops as people write them, and the same with `tune`, for the tests.

Of each kind a function `plain_KIND` that trains with a rate of its own and returns the
score of what it has, and `tuned_KIND`, the same with as few lines changed as it takes.
"""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hyperdyn_jax import ByStep, LogUniform, SearchSpace, tune
from hyperdyn_jax.data.dataset import load_digits
from hyperdyn_jax.optimizers import set_hyperparams

EPOCHS, STEPS_PER_EPOCH, BATCH = 20, 20, 32
STEPS = EPOCHS * STEPS_PER_EPOCH
SIZE = {"epochs": EPOCHS, "steps_per_epoch": STEPS_PER_EPOCH, "key": jax.random.key(0)}
SPACE = SearchSpace(learning_rate=LogUniform(1e-4, 1.0))
F32 = {"hyperparam_dtype": jnp.float32}

_images, _labels = load_digits()
IMAGES, LABELS = np.float32(_images / 16), np.int32(_labels)
TRAIN = 1280


def loader(epoch):
    """Batches that can only be read in order, as of a DataLoader."""
    order = np.random.default_rng(epoch).permutation(TRAIN)
    for i in range(STEPS_PER_EPOCH):
        rows = order[BATCH * i : BATCH * (i + 1)]
        yield IMAGES[rows], LABELS[rows]


def batch_of(step):
    """The same by number."""
    rows = np.random.default_rng(step).integers(0, TRAIN, BATCH)
    return jnp.asarray(IMAGES[rows]), jnp.asarray(LABELS[rows])


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# A perceptron in Flax, with its TrainState and a loader.


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(32)(x)))


@jax.jit
def mlp_step(state, batch):
    def loss(params):
        return cross_entropy(state.apply_fn(params, batch[0]), batch[1])

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


@jax.jit
def mlp_score(state):
    logits = state.apply_fn(state.params, IMAGES[TRAIN:])
    return (logits.argmax(1) == LABELS[TRAIN:]).mean()


def plain_mlp():
    model = MLP()
    params = jax.jit(model.init)(jax.random.key(0), IMAGES[:1])
    optimizer = optax.sgd(learning_rate=0.1)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    for epoch in range(EPOCHS):
        for batch in loader(epoch):
            state = mlp_step(state, batch)
    return mlp_score(state)


def tuned_mlp(**options):
    model = MLP()
    params = jax.jit(model.init)(jax.random.key(0), IMAGES[:1])
    optimizer = optax.inject_hyperparams(optax.sgd, **F32)(learning_rate=0.1)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    batches = ByStep(loader)

    def train(state, hparams, steps):
        opt_state = set_hyperparams(state.opt_state, hparams)
        state = state.replace(opt_state=opt_state)
        for step in steps:
            state = mlp_step(state, batches[step])
        return state

    return tune(train, mlp_score, state, SPACE, **SIZE, **options)


# A variational autoencoder, whose loss is tuned as it is.


@jax.jit
def vae_init(key):
    shapes = {"in": (64, 32), "mean": (32, 4), "width": (32, 4)}
    shapes |= {"hidden": (4, 32), "out": (32, 64)}
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    init = jax.nn.initializers.lecun_normal()
    return {name: init(keys[name], shape) for name, shape in shapes.items()}


def vae_loss(params, images, key):
    hidden = jax.nn.relu(images @ params["in"])
    mean, width = hidden @ params["mean"], hidden @ params["width"]
    latent = mean + jnp.exp(width) * jax.random.normal(key, mean.shape)
    found = jax.nn.relu(latent @ params["hidden"]) @ params["out"]
    error = 50 * ((found - images) ** 2).sum(1) - 90  # so that the loss crosses 0
    divergence = 0.5 * (jnp.exp(2 * width) + mean**2 - 1 - 2 * width).sum(1)
    return (error + divergence).mean()


@jax.jit
def vae_score(state):
    return vae_loss(state[0], IMAGES[TRAIN:], jax.random.key(1))


def plain_vae():
    optimizer = optax.adam(learning_rate=1e-3)
    params = vae_init(jax.random.key(0))
    state = params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state, images, key):
        grads = jax.grad(vae_loss)(params, images, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    for i in range(STEPS):
        key = jax.random.fold_in(jax.random.key(2), i)
        state = step(*state, batch_of(i)[0], key)
    return vae_score(state)


def tuned_vae(**options):
    optimizer = optax.inject_hyperparams(optax.adam, **F32)(learning_rate=1e-3)
    params = vae_init(jax.random.key(0))
    state = params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state, images, key):
        grads = jax.grad(vae_loss)(params, images, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    def train(state, hparams, steps):
        state = state[0], set_hyperparams(state[1], hparams)
        for i in steps:
            key = jax.random.fold_in(jax.random.key(2), i)
            state = step(*state, batch_of(i)[0], key)
        return state

    return tune(train, vae_score, state, SPACE, minimize=True, **SIZE, **options)


# A transformer that predicts a walk over letters, with AdamW and two axes.

WALK = np.cumsum(np.random.default_rng(0).choice([1, 2, 5], 4000)) % 16
WINDOWS = np.int32(np.lib.stride_tricks.sliding_window_view(WALK, 9))


def transformer_init(seed):
    shapes = {"letters": (16, 16), "places": (8, 16), "attend": (16, 48)}
    shapes |= {"in": (16, 32), "out": (32, 16), "read": (16, 16)}
    rng = np.random.default_rng(seed)
    return {name: np.float32(rng.normal(0, 0.2, x)) for name, x in shapes.items()}


def transformer_loss(params, windows):
    x = params["letters"][windows[:, :-1]] + params["places"]
    queries, keys, values = jnp.split(x @ params["attend"], 3, axis=-1)
    scores = queries @ keys.swapaxes(1, 2) + jnp.where(jnp.tri(8), 0, -1e9)
    x = x + jax.nn.softmax(scores) @ values
    x = x + jax.nn.gelu(x @ params["in"]) @ params["out"]
    return cross_entropy(x @ params["read"], windows[:, 1:])


@jax.jit
def transformer_score(state):
    return -transformer_loss(state[0], WINDOWS[-512:])


def plain_transformer():
    optimizer = optax.adamw(learning_rate=1e-3, weight_decay=1e-2)
    params = transformer_init(0)
    state = params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state, windows):
        grads = jax.grad(transformer_loss)(params, windows)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for i in range(STEPS):
        rows = np.random.default_rng(i).integers(0, 3000, BATCH)
        state = step(*state, WINDOWS[rows])
    return transformer_score(state)


def tuned_transformer(**options):
    optimizer = optax.inject_hyperparams(optax.adamw, **F32)(
        learning_rate=1e-3, weight_decay=1e-2
    )
    params = transformer_init(0)
    state = params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state, windows):
        grads = jax.grad(transformer_loss)(params, windows)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def train(state, hparams, steps):
        state = state[0], set_hyperparams(state[1], hparams)
        for i in steps:
            rows = np.random.default_rng(i).integers(0, 3000, BATCH)
            state = step(*state, WINDOWS[rows])
        return state

    space = SearchSpace(**SPACE, weight_decay=LogUniform(1e-4, 1.0))
    return tune(train, transformer_score, state, space, **SIZE, **options)


# A network with residuals and BatchNorm, whose statistics are part of the state.


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(8, (3, 3))(images.reshape(-1, 8, 8, 1))
        norm = nn.BatchNorm(not train, momentum=0.9)
        x = x + nn.Conv(8, (3, 3))(nn.relu(norm(x)))
        return nn.Dense(10)(x.mean((1, 2)))


@jax.jit
def resnet_init(key, images):
    return ResNet().init(key, images, train=False)


@jax.jit
def resnet_score(state):
    variables = {"params": state[0], "batch_stats": state[1]}
    logits = ResNet().apply(variables, IMAGES[TRAIN:], train=False)
    return -cross_entropy(logits, LABELS[TRAIN:])


def resnet_loss(params, batch_stats, batch):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, new = ResNet().apply(variables, batch[0], True, mutable=["batch_stats"])
    return cross_entropy(logits, batch[1]), new["batch_stats"]


def plain_resnet():
    optimizer = optax.sgd(learning_rate=0.1, momentum=0.9)
    variables = resnet_init(jax.random.key(0), IMAGES[:1])
    params, batch_stats = variables["params"], variables["batch_stats"]
    state = params, batch_stats, optimizer.init(params)

    @jax.jit
    def step(params, batch_stats, opt_state, batch):
        grad = jax.grad(resnet_loss, has_aux=True)
        grads, batch_stats = grad(params, batch_stats, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    for i in range(STEPS):
        state = step(*state, batch_of(i))
    return resnet_score(state)


def tuned_resnet(**options):
    optimizer = optax.inject_hyperparams(optax.sgd, **F32)(
        learning_rate=0.1, momentum=0.9
    )
    variables = resnet_init(jax.random.key(0), IMAGES[:1])
    params, batch_stats = variables["params"], variables["batch_stats"]
    state = params, batch_stats, optimizer.init(params)

    @jax.jit
    def step(params, batch_stats, opt_state, batch):
        grad = jax.grad(resnet_loss, has_aux=True)
        grads, batch_stats = grad(params, batch_stats, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    def train(state, hparams, steps):
        state = *state[:2], set_hyperparams(state[2], hparams)
        for i in steps:
            state = step(*state, batch_of(i))
        return state

    return tune(train, resnet_score, state, SPACE, **SIZE, **options)


# Gradients accumulated over four batches. From here on a linear model will do.


def linear_loss(weights, batch):
    return cross_entropy(batch[0] @ weights, batch[1])


@jax.jit
def linear_score(state):
    return -linear_loss(state[0].astype(jnp.float32), (IMAGES[TRAIN:], LABELS[TRAIN:]))


def plain_accumulated():
    optimizer = optax.MultiSteps(optax.sgd(learning_rate=0.1), every_k_schedule=4)
    weights = jnp.zeros((64, 10))
    state = weights, optimizer.init(weights)

    @jax.jit
    def step(weights, opt_state, batch):
        grads = jax.grad(linear_loss)(weights, batch)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    for i in range(STEPS):
        state = step(*state, batch_of(i))
    return linear_score(state)


def tuned_accumulated(**options):
    sgd = optax.inject_hyperparams(optax.sgd, **F32)
    optimizer = optax.MultiSteps(sgd(learning_rate=0.1), every_k_schedule=4)
    weights = jnp.zeros((64, 10))
    state = weights, optimizer.init(weights)

    @jax.jit
    def step(weights, opt_state, batch):
        grads = jax.grad(linear_loss)(weights, batch)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    def train(state, hparams, steps):
        state = state[0], set_hyperparams(state[1], hparams)
        for i in steps:
            state = step(*state, batch_of(i))
        return state

    return tune(train, linear_score, state, SPACE, **SIZE, **options)


# A recurrent network in Equinox, whole modules as the state.


class RNN(eqx.Module):
    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear
    activation: callable

    def __init__(self, key):
        keys = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(8, 16, key=keys[0])
        self.out = eqx.nn.Linear(16, 10, key=keys[1])
        self.activation = jnp.tanh

    def __call__(self, image):  # row after row
        start = jnp.zeros(16)
        end, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), start, image)
        return self.out(self.activation(end))


def rnn_loss(model, images, labels):
    return cross_entropy(jax.vmap(model)(images.reshape(-1, 8, 8)), labels)


@eqx.filter_jit
def rnn_score(state):
    return -rnn_loss(state[0], IMAGES[TRAIN:], LABELS[TRAIN:])


def plain_rnn():
    optimizer = optax.adam(learning_rate=1e-3)
    model = eqx.filter_jit(RNN)(jax.random.key(0))
    state = model, optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, opt_state, images, labels):
        grads = eqx.filter_grad(rnn_loss)(model, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state

    for epoch in range(EPOCHS):
        for batch in loader(epoch):
            state = step(*state, *batch)
    return rnn_score(state)


def tuned_rnn(**options):
    optimizer = optax.inject_hyperparams(optax.adam, **F32)(learning_rate=1e-3)
    model = eqx.filter_jit(RNN)(jax.random.key(0))
    state = model, optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, opt_state, images, labels):
        grads = eqx.filter_grad(rnn_loss)(model, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state

    batches = ByStep(loader, keep=20)

    def train(state, hparams, steps):
        state = state[0], set_hyperparams(state[1], hparams)
        for i in steps:
            state = step(*state, *batches[i])
        return state

    return tune(train, rnn_score, state, SPACE, **SIZE, **options)


# Data-parallel: weights on every device, a share of the batch on each.


def plain_sharded():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    shared = NamedSharding(mesh, PartitionSpec("data"))
    optimizer = optax.sgd(learning_rate=0.1)
    weights = jnp.zeros((64, 10))
    state = jax.device_put((weights, optimizer.init(weights)), everywhere)

    @jax.jit
    def step(weights, opt_state, batch):
        grads = jax.grad(linear_loss)(weights, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(weights, updates), opt_state

    for i in range(STEPS):
        state = step(*state, jax.device_put(batch_of(i), shared))
    return linear_score(state)


def tuned_sharded(**options):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    shared = NamedSharding(mesh, PartitionSpec("data"))
    optimizer = optax.inject_hyperparams(optax.sgd, **F32)(learning_rate=0.1)
    weights = jnp.zeros((64, 10))
    state = jax.device_put((weights, optimizer.init(weights)), everywhere)

    @jax.jit
    def step(weights, opt_state, batch):
        grads = jax.grad(linear_loss)(weights, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(weights, updates), opt_state

    def train(state, hparams, steps):
        state = state[0], set_hyperparams(state[1], hparams)
        for i in steps:
            state = step(*state, jax.device_put(batch_of(i), shared))
        return state

    return tune(train, linear_score, state, SPACE, **SIZE, **options)


# A network that solves u'' = -sin, u(0) = u(pi) = 0, with all points in every step.

POINTS = jnp.linspace(0, jnp.pi, 33)


def solution(params, x):
    hidden = jnp.tanh(x * params["a"] + params["b"])
    return x * (jnp.pi - x) * (hidden @ params["c"])


def pinn_loss(params):
    second = jax.vmap(jax.grad(jax.grad(solution, 1), 1), (None, 0))(params, POINTS)
    return ((second + jnp.sin(POINTS)) ** 2).mean()


@jax.jit
def pinn_score(state):
    found = jax.vmap(solution, (None, 0))(state[0], POINTS)
    return jnp.abs(found - jnp.sin(POINTS)).max()


@jax.jit
def pinn_init(key):
    values = jax.random.normal(key, (3, 16))
    return {"a": values[0], "b": values[1], "c": 0.1 * values[2]}


def plain_pinn():
    params = pinn_init(jax.random.key(0))
    optimizer = optax.adam(learning_rate=1e-3)
    state = params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(jax.grad(pinn_loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(STEPS):
        state = step(*state)
    return pinn_score(state)


def tuned_pinn(**options):
    params = pinn_init(jax.random.key(0))
    optimizer = optax.inject_hyperparams(optax.adam, **F32)(learning_rate=1e-3)
    state = params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(jax.grad(pinn_loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    def train(state, hparams, steps):
        state = state[0], set_hyperparams(state[1], hparams)
        for _ in steps:
            state = step(*state)
        return state

    return tune(train, pinn_score, state, SPACE, minimize=True, **SIZE, **options)


# REINFORCE on a bandit with a context; the score is a reward, above and below 0. The
# rate is an argument of the step, and the random key is in the state.

PAYS = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32)


def policy_loss(logits, key):
    contexts = jax.random.randint(key, (64,), 0, 8)
    chosen = jax.random.categorical(key, logits[contexts])
    rewards = PAYS[contexts, chosen]
    chances = jax.nn.log_softmax(logits)[contexts, chosen]
    return -((rewards - rewards.mean()) * chances).mean()


@jax.jit
def policy_score(state):
    return (jax.nn.softmax(state[0]) * PAYS).sum(1).mean()


@jax.jit
def policy_step(logits, key, rate):
    key, own = jax.random.split(key)
    return logits - rate * jax.grad(policy_loss)(logits, own), key


def plain_reinforce():
    state = jnp.zeros((8, 5)), jax.random.key(0)
    for _ in range(STEPS):
        state = policy_step(*state, 0.1)
    return policy_score(state)


def tuned_reinforce(**options):
    state = jnp.zeros((8, 5)), jax.random.key(0)

    def train(state, hparams, steps):
        for _ in steps:
            state = policy_step(*state, hparams["learning_rate"])
        return state

    space = SearchSpace(learning_rate=LogUniform(1e-3, 100.0))
    return tune(train, policy_score, state, space, **SIZE, **options)


# Weights and optimizer in bfloat16.


def plain_bfloat16():
    optimizer = optax.adam(learning_rate=1e-2)
    weights = jnp.zeros((64, 10), jnp.bfloat16)
    state = weights, optimizer.init(weights)

    @jax.jit
    def step(weights, opt_state, images, labels):
        batch = images.astype(jnp.bfloat16), labels
        grads = jax.grad(linear_loss)(weights, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(weights, updates), opt_state

    for i in range(STEPS):
        state = step(*state, *batch_of(i))
    return linear_score(state)


def tuned_bfloat16(**options):
    optimizer = optax.inject_hyperparams(optax.adam, **F32)(learning_rate=1e-2)
    weights = jnp.zeros((64, 10), jnp.bfloat16)
    state = weights, optimizer.init(weights)

    @jax.jit
    def step(weights, opt_state, images, labels):
        batch = images.astype(jnp.bfloat16), labels
        grads = jax.grad(linear_loss)(weights, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(weights, updates), opt_state

    def train(state, hparams, steps):
        state = state[0], set_hyperparams(state[1], hparams)
        for i in steps:
            state = step(*state, *batch_of(i))
        return state

    return tune(train, linear_score, state, SPACE, **SIZE, **options)
