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
# # What the Gaussian process believes
#
# The paper's method on one hyperparameter, epoch by epoch: what it had seen, what gain
# in accuracy it expected from every learning rate, which it tried, and what that
# gained. What the model expects after what it has seen is its *posterior*. The loop is
# written out: `ask`, train, `tell`.

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
import json
import os

import jax.numpy as jnp
import numpy as np
import optax
from IPython.display import HTML, display

from hyperdyn_jax import Hyperdyn, LogUniform, SearchSpace
from hyperdyn_jax.data.dataset import load_digits
from hyperdyn_jax.strategies import hyperdyn
from hyperdyn_jax.tuner import cpu_jit, gp

EPOCHS = int(os.environ.get("EPOCHS", 12))
STEPS, BATCH = 40, 32
images, labels = load_digits()
images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)


def loss(weights, rows):
    scores = images[rows] @ weights
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels[rows]).mean()


@jax.jit
def train_step(weights, rate, step):
    rows = jax.random.choice(
        jax.random.fold_in(jax.random.key(1), step), 1280, (BATCH,)
    )
    return weights - rate * jax.grad(loss)(weights, rows)


def accuracy(weights):
    hits = jnp.argmax(images[1280:] @ weights, axis=1) == labels[1280:]
    return 100 * float(hits.mean())


# %% [markdown]
# The run: five random settings in the first epoch (the random start). Then in every
# epoch the present setting (the incumbent) and a new one (the challenger) train from
# the same weights.

# %%
space = SearchSpace(learning_rate=LogUniform(1e-4, 10.0))
tuner = Hyperdyn(space, capacity=64)
weights = jnp.zeros((64, 10))
state, score = tuner.init(jax.random.key(0), accuracy(weights)), accuracy(weights)
history = []
for epoch in range(EPOCHS):
    trials = tuner.ask(state)
    branches = []
    for rate in trials.hparams["learning_rate"]:
        branch = weights
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            branch = train_step(branch, rate, step)
        branches.append(branch)
    scores = [accuracy(branch) for branch in branches]
    before, (state, decision) = state, tuner.tell(state, trials, scores)
    history.append(
        (before.data, state.model, trials, np.array(scores) - score, decision)
    )
    weights, score = branches[decision.branch], scores[decision.branch]
print(f"{score:.1f}% after {EPOCHS} epochs")

# %% [markdown]
# The posterior along the axis at each epoch, as the tuner itself computes it.


# %%
@cpu_jit.compiled
def posterior(tuner, data, model, epoch, units):
    """Mean and standard deviation of the gain, f32[n] each, percentage points."""
    kernels = hyperdyn.kernels(tuner)
    known = gp.condition(cpu_jit.double(model), cpu_jit.double(data), *kernels)
    now = cpu_jit.double(epoch)
    predict = jax.vmap(lambda unit: known.predict(gp.Query(unit[None], now)))
    return cpu_jit.single(predict(cpu_jit.double(units)))


units = np.linspace(0, 1, 101, dtype=np.float32)
rates = np.asarray(space.from_unit(units[:, None])["learning_rate"])
frames = []
for epoch, (data, model, trials, gains, decision) in enumerate(history):
    if epoch == 0:
        continue  # the random start: the model has seen nothing yet
    mean, stddev = posterior(tuner, data, model, np.float32(epoch), units)
    seen = data.feasible
    frames.append(
        {
            "epoch": epoch,
            "mean": mean.tolist(),
            "stddev": stddev.tolist(),
            "seen": np.column_stack(
                [data.points[seen, 0], data.gains[seen], epoch - data.epochs[seen]]
            ).tolist(),
            "tried": cpu_jit.to_unit(tuner, trials.hparams)[:, 0].tolist(),
            "gains": gains.tolist(),
            "rates": trials.hparams["learning_rate"].tolist(),
            "branch": decision.branch,
        }
    )

# %% [markdown]
# In words:

# %%
for frame in frames:
    best = int(np.argmax(frame["mean"]))
    mine, other = (f"{rate:.2g}" for rate in frame["rates"])
    gained = ", ".join(f"{gain:+.1f}" for gain in frame["gains"])
    print(
        f"epoch {frame['epoch']:2}: expects the most from {rates[best]:.2g} "
        f"({frame['mean'][best]:+.1f} ± {frame['stddev'][best]:.1f} points); incumbent "
        f"{mine} and challenger {other} gained {gained}; "
        f"{'kept' if frame['branch'] == 0 else 'switched'}"
    )

# %% [markdown]
# As a chart. Line and band: mean and two standard deviations of the gain in the next
# epoch, in percentage points. Dots: earlier gains, paler the longer ago. Triangles: the
# gains of the incumbent (up) and of the challenger (down).

# %%
PAGE = """
<div id="belief" style="max-width: 40rem; font: 1rem system-ui, sans-serif">
<label>epoch <input type="range" min="0" max="LAST" value="0" style="width: 60%">
<output></output></label>
<svg viewBox="0 0 640 320" width="100%" role="img" aria-label="Posterior of the gain"
 style="background: #fff; color: #1f2328"></svg></div>
<script>
(() => {
const frames = FRAMES, rates = RATES, box = document.getElementById("belief");
box.removeAttribute("id");
const svg = box.querySelector("svg"), slider = box.querySelector("input");
const all = frames.flatMap(f => [...f.gains, ...f.seen.map(p => p[1]),
  ...f.mean.map((m, i) => m + 2 * f.stddev[i]), ...f.mean.map((m, i) => m - 2 * f.stddev[i])]);
const low = Math.min(...all), high = Math.max(...all);
const x = u => 50 + 570 * u, y = g => 280 - 260 * (g - low) / (high - low);
const line = (points) => points.map(([u, g]) => `${x(u).toFixed(1)},${y(g).toFixed(1)}`).join(" ");
const text = (a, b, t, anchor) =>
  `<text x="${a}" y="${b}" font-size="12" fill="currentColor" text-anchor="${anchor}">${t}</text>`;
function draw() {
  const f = frames[slider.value], n = f.mean.length - 1;
  const side = s => f.mean.map((m, i) => [i / n, m + 2 * s * f.stddev[i]]);
  box.querySelector("output").textContent = f.epoch;
  svg.innerHTML = `<polygon points="${line(side(1).concat(side(-1).reverse()))}" fill="#0072B2"
    opacity="0.2"/><polyline points="${line(f.mean.map((m, i) => [i / n, m]))}" fill="none"
    stroke="#0072B2" stroke-width="2"/>`
    + f.seen.map(([u, g, age]) => `<circle cx="${x(u)}" cy="${y(g)}" r="4" fill="#1f2328"
      opacity="${1 / (1 + age)}"/>`).join("")
    + f.tried.map((u, i) => `<path d="M${x(u)} ${y(f.gains[i])} l-7 ${i ? -12 : 12} h14 z"
      fill="${i ? "#D55E00" : "#009E73"}"/>`).join("")
    + [0, 25, 50, 75, 100].map(i => text(x(i / 100), 300, rates[i].toPrecision(2), "middle")).join("")
    + text(335, 316, "learning rate", "middle")
    + [low, 0, high].map(g => text(46, y(g) + 4, g.toFixed(0), "end")).join("");
}
slider.oninput = draw; draw();
})();
</script>
"""  # noqa: E501
page = PAGE.replace("LAST", str(len(frames) - 1))
page = page.replace("FRAMES", json.dumps(frames)).replace(
    "RATES", json.dumps(rates.tolist())
)
display(HTML(page))
