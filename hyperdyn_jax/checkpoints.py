"""Checkpoints of a run, through Orbax."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class Checkpoints:
    """The newest states of a run, each written whole or not at all.

    Args:
      folder: where they are kept; made if it is not there.
      keep: how many.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,  # of a run that was killed
                enable_async_checkpointing=False,
            ),
        )

    def save(self, number: int, arrays: Any, facts: dict[str, Any]) -> None:
        """Writes one checkpoint.

        Args:
          number: greater than every number before.
          arrays: a pytree of arrays, which may be on devices.
          facts: plain numbers and text, for JSON.
        """
        items = ocp.args.Composite(
            arrays=ocp.args.StandardSave(jax.device_get(arrays)),
            facts=ocp.args.JsonSave(facts),
        )
        self._manager.save(number, args=items)

    def latest(self) -> dict[str, Any] | None:
        """The facts of the newest checkpoint, or None if there is none."""
        number = self._manager.latest_step()
        if number is None:
            return None
        items = ocp.args.Composite(facts=ocp.args.JsonRestore())
        return self._manager.restore(number, args=items)["facts"]

    def restore(self, like: Any) -> Any:
        """The arrays of the newest checkpoint, as NumPy arrays.

        Args:
          like: a pytree of the same structure, shapes and dtypes.
        """
        abstract = jax.tree.map(lambda x: np.empty(np.shape(x), x.dtype), like)
        items = ocp.args.Composite(arrays=ocp.args.StandardRestore(abstract))
        return self._manager.restore(self._manager.latest_step(), args=items)["arrays"]

    def close(self) -> None:
        self._manager.close()
