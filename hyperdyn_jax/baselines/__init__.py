"""What the paper compares with, and what a user would pick instead.

Every class is a `hyperdyn_jax.types.Strategy`: the same loop runs and counts them all.
"""

from hyperdyn_jax.baselines.autolrs import AutoLRS as AutoLRS
from hyperdyn_jax.baselines.pb2 import PB2 as PB2
from hyperdyn_jax.baselines.schedules import ReduceOnPlateau as ReduceOnPlateau
from hyperdyn_jax.baselines.schedules import Replay as Replay
from hyperdyn_jax.baselines.schedules import Schedule as Schedule
from hyperdyn_jax.baselines.search import DoNothingControl as DoNothingControl
from hyperdyn_jax.baselines.search import GreedyBestOfTwo as GreedyBestOfTwo
from hyperdyn_jax.baselines.search import HyperbandVariant as HyperbandVariant
from hyperdyn_jax.baselines.search import RandomSearch as RandomSearch
