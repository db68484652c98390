"""Data sets: `registry.DATASETS` has them by name; these are what one is made of."""

from hyperdyn_jax.data.dataset import ArrayDataset as ArrayDataset
from hyperdyn_jax.data.dataset import Batch as Batch
from hyperdyn_jax.data.dataset import Dataset as Dataset
from hyperdyn_jax.data.dataset import Split as Split
from hyperdyn_jax.data.dataset import load_digits as load_digits
