"""Which settings led to each of the states that a run holds.

The rows of metrics.jsonl tell the path of the run. A strategy that holds several
states, as a race or a population does, may go on from another one, whose path is not in
the rows: it is kept with the state, and told in the row that follows on it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hyperdyn_jax.run.state import Path, Run
from hyperdyn_jax.strategies.learned_schedule import path_of
from hyperdyn_jax.tuner.interface import Decision


class Lineage(NamedTuple):
    """The paths around a decision.

    before: the run, with the pending decision.
    decision: what was decided.
    metrics: rows of metrics.jsonl before it.
    """

    before: Run
    decision: Decision
    metrics: Sequence[Mapping[str, Any]]

    def paths(self) -> list[Path | None]:
        """`Run.paths` after the decision, for the states that it holds on to."""
        first, *others = map(int, self.decision.hold)
        told = first == self.decision.branch
        start = None if told else self._known(first)
        return [start, *(self._other(state, first, start) for state in others)]

    def elsewhere(self) -> Path | None:
        """The path to where the run goes on from, as the accepted branch or from a
        state that it held; None if that is where the rows end."""
        stays = self.decision.branch < 0
        held = self._parent(self.decision.hold[0] if stays else self.decision.branch)
        if self._goes_on(held):
            return None
        return self._path(self._branches + held)

    @property
    def _branches(self) -> int:
        assert self.before.pending is not None
        return len(self.before.pending.progress.states)

    def _parent(self, state: int) -> int:
        """The held state that a state is, or that it started from."""
        assert self.before.pending is not None
        if state < self._branches:
            return int(self.before.pending.trials.parents[state])
        return state - self._branches

    def _goes_on(self, held: int) -> bool:
        """Whether a held state is where the rows end."""
        run = self.before
        return run.paths[held] is None and run.steps[held] == run.told_step

    def _known(self, state: int) -> Path | None:
        """The path to a state; None where it is on that of the rows."""
        if state >= self._branches and self.before.paths[self._parent(state)] is None:
            return None
        return self._path(state)

    def _other(self, state: int, first: int, start: Path | None) -> Path | None:
        """The path to a state beside the run, which is the first."""
        if state == first:
            return start
        on_its_way = self._goes_on(self._parent(first)) and start is None
        return self._known(state) if on_its_way else self._path(state)

    def _path(self, state: int) -> Path:
        """The path to a state, with all of its settings."""
        run, held = self.before, self._parent(state)
        known = run.paths[held]
        if known is None:
            known = [x for x in path_of(self.metrics) if x[0] <= run.steps[held]]
        if state >= self._branches:
            return known
        assert run.pending is not None
        setting = run.pending.trials.setting(state)
        end = run.steps[held] + run.pending.progress.steps
        return [*known, (end, {name: float(x) for name, x in setting.items()})]
