"""Learning curves as a world in which a policy can be tried in milliseconds.

A table (`tables.py`) holds the loss of runs at constant rates; between its rates and
horizons it is interpolated. What a change of the rate on the way costs is left out.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from scipy import interpolate

EARLY = 0.01  # of a run, when a loss says something of the network
CAP = 4.0  # losses are cut this many times the range of progress above the start


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Losses of one workload.

    name: of the file.
    grid: f64[r] learning rates.
    horizons: f64[h] steps, the last being the whole run.
    losses: f64[h, r] by (shape, read-out), such as ("wsd", "raw").
    start: of the untrained network.
    """

    name: str
    grid: np.ndarray
    horizons: np.ndarray
    losses: dict[tuple[str, str], np.ndarray]
    start: float

    @property
    def steps(self) -> int:
        return int(self.horizons[-1])

    @functools.cached_property
    def best(self) -> float:
        """The best end of a sweep over {cosine, WSD} and all rates of the table."""
        return float(min(self._ends("wsd").min(), self._ends("cosine").min()))

    @functools.cached_property
    def target(self) -> float:
        """The median of the eight best runs of that sweep, and no less than 1% above
        the best; a sweep of four rates has no more runs."""
        ends = np.concatenate([self._ends("wsd"), self._ends("cosine")])
        median = float(np.median(np.sort(ends)[:8]))
        return max(median, self.best + 0.01 * self.unit)

    @functools.cached_property
    def best_rate(self) -> float:
        """The rate of that run."""
        both = np.minimum(self._ends("wsd"), self._ends("cosine"))
        return float(self.grid[both.argmin()])

    @functools.cached_property
    def unit(self) -> float:
        """What 1% of a loss is where the loss itself has no zero: 1% of the progress
        after the first 1% of the run, as an untrained network's loss can be anything.

        A loss above 0 that a sweep brings to a tenth or more of the start keeps its own
        zero, as the targets are written in it.
        """
        if self.best > 0.1 * self.start > 0:
            return self.best
        early = self.at(self.best_rate, EARLY * self.steps, "raw")
        return min(early, self.start) - self.best

    def ratio(self, loss: float) -> float:
        """A loss against the best of the sweep, 1 being as good."""
        return 1 + (loss - self.best) / self.unit

    def _ends(self, shape: str) -> np.ndarray:
        ends: np.ndarray = self.losses[shape, "raw"][-1]
        return ends

    def at(self, rate: float, steps: float, readout: str = "avg") -> float:
        """Loss of a constant rate after some steps."""
        return self._between("constant", readout, rate, steps)

    def own(self, rate: float, shape: str) -> float:
        """Loss at the end of a whole run at a rate, as it stands."""
        return self._between(shape, "raw", rate, self.steps)

    def end(self, rate: float, steps: float, shape: str = "wsd") -> float:
        """Loss of a whole run of so many steps: the best of the path's end, its average
        and, as a run goes back to its best epoch, of the averages on the way."""
        ends = [self._between(shape, read, rate, self.steps) for read in ("raw", "avg")]
        fewer = self.at(rate, steps) - self.at(rate, self.steps)
        stops = np.linspace(0.1, 0.8, 15) * steps
        return min(min(ends) + fewer, *(self.at(rate, stop) for stop in stops))

    def _between(self, shape: str, readout: str, rate: float, steps: float) -> float:
        row = np.clip(
            np.interp(
                np.log(steps), np.log(self.horizons), np.arange(len(self.horizons))
            ),
            0,
            len(self.horizons) - 1,
        )
        low = int(row)
        pair = [
            float(self._curve(shape, readout, i)(np.log(rate)))
            for i in (low, min(low + 1, len(self.horizons) - 1))
        ]
        return pair[0] + (row - low) * (pair[1] - pair[0])

    @functools.cache  # noqa: B019 (tables live as long as the program)
    def _curve(self, shape: str, readout: str, row: int) -> Any:
        return interpolate.Akima1DInterpolator(
            np.log(self.grid), self.losses[shape, readout][row], extrapolate=True
        )


def load(path: str | Path) -> Curves:
    """A table; runs that diverged have a loss far above all others."""
    with np.load(path) as file:
        kinds = [str(kind) for kind in file["kinds"]]
        start = float(file["start"])
        lowest = float(min(np.nanmin(file["raw"]), np.nanmin(file["avg"])))
        cap = start + CAP * (start - lowest)
        losses = {
            (kind, readout): np.where(
                np.isfinite(file[readout][:, i]),
                np.minimum(file[readout][:, i], cap),
                cap,
            )
            for i, kind in enumerate(kinds)
            for readout in ("raw", "avg")
        }
        return Curves(
            Path(path).stem,
            np.asarray(file["grid"], np.float64),
            np.asarray(file["horizons"], np.float64),
            losses,
            start,
        )
