"""A transformer on characters: AdamW's rate, betas and weight decay tuned together.

    python examples/transformer.py

The text is Python's own manual, which every installation holds; the score is the
validation loss, in nats a character.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperdyn_jax import LogComplement, LogUniform, SearchSpace, optimizers, tune
from hyperdyn_jax.data.characters import characters

EPOCHS, STEPS_PER_EPOCH, BATCH, WIDTH = 20, 30, 32, 32
text = characters()


def sequences(images, labels):  # u8[n, 17]: windows, and the character after each
    return jnp.asarray(np.column_stack([images[:, :, 0, 0], labels]).astype(np.uint8))


train_set = sequences(*text["train"])
validation_set = sequences(*text["validation"])[:512]


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, codes):  # u8[n, 16] -> f32[n, 16, classes]
        places = self.param("places", nn.initializers.normal(0.02), (16, WIDTH))
        x = nn.Embed(text["classes"], WIDTH)(codes) + places[None]
        mask = nn.make_causal_mask(codes)
        x += nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask)
        x += nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(text["classes"])(nn.LayerNorm()(x))


network = Transformer()
start = {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.999, "weight_decay": 1e-2}
optimizer = optimizers.create_optimizer("adam", start)  # AdamW
space = SearchSpace(
    learning_rate=LogUniform(1e-5, 1e-1),
    b1=LogComplement(0.5, 0.99),  # log-uniform in 1 - b1: in how long it remembers
    b2=LogComplement(0.9, 0.9999),
    weight_decay=LogUniform(1e-4, 1.0),
)


@jax.jit
def loss(params, codes):
    logits, following = network.apply(params, codes[:, :-1]), codes[:, 1:]
    following = following.astype(jnp.int32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, following).mean()


@jax.jit
def train_step(params, opt_state, step):
    key = jax.random.fold_in(jax.random.key(1), step)  # batches by the step's number
    batch = train_set[jax.random.choice(key, len(train_set), (BATCH,))]
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


params = network.init(jax.random.key(0), train_set[:1, :-1])
state = params, optimizer.init(params)
result = tune(train, evaluate, state, space, epochs=EPOCHS, base=start, minimize=True,
              steps_per_epoch=STEPS_PER_EPOCH, key=jax.random.key(2))  # fmt: skip

total = EPOCHS * STEPS_PER_EPOCH  # every trial counted
plain = evaluate(train(state, start, range(total)))
print(f"loss {result.score:.4f} tuned, {plain:.4f} untuned, {total} steps each")
