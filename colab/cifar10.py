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
# # CIFAR-10 against the manual schedule
#
# The same network, data and total number of steps, once with the schedule of He et al.
# (2015) and once with a race of learning rates. On a CPU the network and the images are
# small (a few minutes per run). On an accelerator it is a ResNet-20. Both train for 24
# epochs, unless the environment variable EPOCHS says otherwise.

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

from hyperdyn_jax import loop, report
from hyperdyn_jax.commands import cli

cpu = jax.default_backend() == "cpu"
usual = "configs/cifar10_twin.py" if cpu else "configs/cifar10.py"
CONFIG = os.environ.get("CONFIG", usual)
EPOCHS = int(os.environ.get("EPOCHS", 24))  # the paper has 182
DATA_DIR = os.environ.get("DATA_DIR", "data")

# %% [markdown]
# tensorflow-datasets downloads and writes the data once. It needs TensorFlow; training
# does not.

# %%
if not Path(DATA_DIR, "cifar10").exists():
    install = [sys.executable, "-m", "pip", "install", "--quiet", "-e"]
    subprocess.run([*install, f"{ROOT}[prepare]"], check=True)
    prepare = [sys.executable, "-m", "hyperdyn_jax.prepare", "cifar10"]
    subprocess.run([*prepare, f"--data_dir={DATA_DIR}"], check=True)

# %%
config = cli.load_config(["train.py", f"--config={ROOT}/{CONFIG}"])
config.update(epochs=EPOCHS, data_dir=DATA_DIR)
runs = {}
for name, strategy in {"manual": "manual_sgd", "tuned": config.strategy}.items():
    config.update(name=name, strategy=strategy)
    workdir = f"runs/cifar10_{name}_{EPOCHS}"
    runs[workdir] = loop.train_and_evaluate(config.to_dict(), workdir)

# %%
for workdir, rows in runs.items():
    last = rows[-1]
    print(
        f"{workdir}: test accuracy {last['test_accuracy']:.1f}%, {last['step']:,} steps"
    )
    print(f"  ({last['total_steps']:,} with every trial)")

# %% [markdown]
# Both runs, over accepted and over total steps (with every trial). One seed says
# little: `python -m hyperdyn_jax.study` runs many.

# %%
from IPython.display import Image, display

page = report.write_report(list(runs), f"runs/cifar10_report_{EPOCHS}")
for figure in sorted((page.parent / "figures").glob("*.png")):
    display(Image(figure))
