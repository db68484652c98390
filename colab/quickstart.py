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
# # Quick start: digits
#
# A small ResNet on 1,797 handwritten digits, which come with the package. Seven
# learning rates train from the same start for a few steps (a race), the better ones
# train on, and the run continues from one of them. It takes about a minute on a CPU.

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

# %% [markdown]
# The config of the command line, `python train.py --config=configs/digits.py`:

# %%
import os

from hyperdyn_jax import load_schedule, loop, report
from hyperdyn_jax.commands import cli

EPOCHS = int(os.environ.get("EPOCHS", 20))  # fewer for a quick look

config = cli.load_config(["train.py", f"--config={ROOT}/configs/digits.py"])
config.epochs = EPOCHS
rows = loop.train_and_evaluate(config.to_dict(), f"runs/digits_{EPOCHS}")

# %% [markdown]
# `rows` are those of `metrics.jsonl`, one per accepted epoch. The last one has the test
# accuracy. Run the cell above again: the run is finished and is read from its files.
# Stop it in the middle and run it again: it goes on, and ends with the same bits.

# %%
last = rows[-1]
print(f"test accuracy {last['test_accuracy']:.1f}% after {last['step']} steps,")
print(f"{last['total_steps']} with every trial, at {last['hyperparams']}")

# %% [markdown]
# The figures of the report. The page itself is `report.html` in the run directory.

# %%
from IPython.display import Image, display

page = report.write_report([f"runs/digits_{EPOCHS}"])
for figure in sorted((page.parent / "figures").glob("*.png")):
    display(Image(figure))

# %% [markdown]
# The learning rate that was found is in `schedule.json`, as an Optax schedule: that of
# the race, the one that was chosen, and the fall at the end.

# %%
schedule = load_schedule(f"runs/digits_{EPOCHS}")["learning_rate"]
for step in (0, last["step"] // 2, last["step"] - 1):
    print(f"step {step}: {float(schedule(step)):.3g}")
