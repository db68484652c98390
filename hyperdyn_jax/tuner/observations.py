"""What a model has seen: rows in arrays of a fixed size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.tuner.interface import Leaf


class Observations(NamedTuple):
    """The data D of the paper, padded to a fixed capacity n.

    points: f32[n, d] settings in the unit cube.
    epochs: f32[n] the epoch each was tried at; 0 for the random start.
    gains: f32[n] accuracy gained by the trial, percentage points; 0 where infeasible.
    feasible: bool[n] the trial ended with finite numbers.
    infeasible: bool[n] the trial diverged. A row that is neither is empty.
    """

    points: Leaf
    epochs: Leaf
    gains: Leaf
    feasible: Leaf
    infeasible: Leaf

    @classmethod
    def empty(cls, capacity: int, dimensions: int) -> "Observations":
        return cls(
            points=np.zeros((capacity, dimensions), np.float32),
            epochs=np.zeros(capacity, np.float32),
            gains=np.zeros(capacity, np.float32),
            feasible=np.zeros(capacity, bool),
            infeasible=np.zeros(capacity, bool),
        )

    def append(
        self, points: np.ndarray, epoch: float, gains: np.ndarray
    ) -> "Observations":
        """Adds rows at the end and drops as many, the oldest, from the front.

        Args:
          points: f32[c, d] in the unit cube.
          epoch: of all of them.
          gains: f32[c] percentage points; non-finite marks an infeasible trial.

        Returns:
          The new `Observations`.
        """
        finite = np.isfinite(gains)
        rows = Observations(
            points=points,
            epochs=np.full(len(gains), epoch, np.float32),
            gains=np.where(finite, gains, np.float32(0)),
            feasible=finite,
            infeasible=~finite,
        )
        return jax.tree.map(
            lambda old, new: np.concatenate([old, new])[-len(old) :], self, rows
        )

    def best_point(self) -> jax.Array:
        """The point of the greatest gain, f[d]; of no feasible one the first row's."""
        gains = jnp.where(self.feasible, self.gains, -jnp.inf)
        return self.points[jnp.argmax(gains)]

    def with_room(self, rows: int) -> "Observations":
        """The same with so many empty rows more at the end."""
        return jax.tree.map(
            lambda x: jnp.pad(x, [(0, rows)] + [(0, 0)] * (x.ndim - 1)), self
        )
