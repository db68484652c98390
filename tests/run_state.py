"""What two runs have to share to be the same."""

import json
from pathlib import Path
from typing import Any

from hyperdyn_jax.run.checkpoints import Checkpoints


def state(workdir: Path) -> tuple[Any, Any, Any]:
    """Rows but for their seconds; facts and every bit of the last checkpoint."""
    logs = [
        [json.loads(line) for line in (workdir / log).read_text().splitlines()]
        for log in ("decisions.jsonl", "metrics.jsonl")
    ]
    for row in logs[1]:
        del row["seconds"], row["trial_seconds"]
    store = Checkpoints(workdir / "checkpoints")
    facts = store.latest()
    del facts["last_rows"]  # of the logs, with their seconds
    arrays = {name: (x.dtype, x.tobytes()) for name, x in store._arrays.items()}
    store.close()
    return logs, facts, arrays
