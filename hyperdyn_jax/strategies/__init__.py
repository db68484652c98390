"""What proposes settings and decides between trials: the paper's method and its peers.

Every class is a `tuner.interface.Strategy`: one loop runs and counts them all.
"""

from hyperdyn_jax.strategies.autolrs import AutoLRS as AutoLRS
from hyperdyn_jax.strategies.pb2 import PB2 as PB2
from hyperdyn_jax.strategies.schedules import ReduceOnPlateau as ReduceOnPlateau
from hyperdyn_jax.strategies.schedules import Replay as Replay
from hyperdyn_jax.strategies.schedules import Schedule as Schedule
from hyperdyn_jax.strategies.search import DoNothingControl as DoNothingControl
from hyperdyn_jax.strategies.search import GreedyBestOfTwo as GreedyBestOfTwo
from hyperdyn_jax.strategies.search import HyperbandVariant as HyperbandVariant
from hyperdyn_jax.strategies.search import RandomSearch as RandomSearch
