"""The switch test: is a challenger better than the incumbent, or was it lucky?

Both are trained side by side on the same stretch of data, with the same keys, and are
scored on the same examples; a new stretch gives a new pair. The differences of several
pairs carry everything that could be luck: order, augmentation and validation noise.
They are tested with Student's t, one-sided (Student 1908).

The test may look twice, so that clear cases are settled early: after `first` pairs and,
if these are undecided, after more. Each look has half of the false-switch level, and
the union bound makes the two together no more than the level (Bonferroni).
"""

import enum
import math

import numpy as np
from scipy import special


class Verdict(enum.Enum):
    """What a look at the pairs says."""

    SWITCH = "switch"
    KEEP = "keep"
    CONTINUE = "continue"


def p_value(differences: np.ndarray) -> float:
    """Chance of pairs this good or better if the challenger is no better.

    Args:
      differences: f[n], score of the challenger minus that of the incumbent; n >= 2.

    Returns:
      In [0, 1]. Equal differences have no spread: 0 if they are positive, else 1.
    """
    differences = np.asarray(differences, np.float64)
    count = len(differences)
    if count < 2:
        raise ValueError(f"the switch test needs at least 2 pairs, got {count}")
    mean, spread = differences.mean(), differences.std(ddof=1)
    if spread <= 1e-12 * abs(mean) or spread == 0.0:
        return 0.0 if mean > 0 else 1.0
    return float(special.stdtr(count - 1, -mean / (spread / math.sqrt(count))))


def look(differences: np.ndarray, first: int, last: int, level: float) -> Verdict:
    """The verdict after the pairs so far.

    Args:
      differences: f[n] as for `p_value`, n <= last.
      first: pairs before the first look, at least 2.
      last: pairs before the second look; the same as `first` for one look.
      level: largest chance to switch to a challenger that is no better.

    Returns:
      `KEEP` whenever the challenger is behind: pairs that would have to make up for it
      are better spent on the run, and giving up early makes no switch more likely.
    """
    count, looks = len(differences), 1 if first == last else 2
    if np.mean(differences) <= 0:
        return Verdict.KEEP
    if count not in (first, last):
        return Verdict.CONTINUE
    if p_value(differences) <= level / looks:
        return Verdict.SWITCH
    return Verdict.KEEP if count == last else Verdict.CONTINUE


def power(
    gap: float,
    deviation: float,
    *,
    first: int,
    last: int,
    level: float,
    margin: float = 0.0,
    base: float = 0.0,
) -> float:
    """Chance that the test as it is run, with both of its looks, finds a true gap.

    By simulation of pairs with normal differences, always from the same draws; the
    standard error is 0.16 percentage points at most.

    Args:
      gap: mean of what the challenger's progress is more than the incumbent's.
      deviation: standard deviation of the difference of a pair, greater than 0.
      first, last, level: as for `look`.
      margin: share of its own progress by which the challenger has to be ahead.
      base: mean progress of the incumbent, which the margin is a share of.

    Returns:
      In [0, 1]. At a gap of exactly the margin, margin (base + gap), it is the chance
      of a false switch.
    """
    noise = np.random.default_rng(0).normal(size=(100_000, last))
    pairs = gap - margin * (base + gap) + deviation * noise
    counts = np.arange(1, last + 1)
    means = np.cumsum(pairs, axis=1) / counts
    ahead = np.logical_and.accumulate(means > 0, axis=1)  # else given up
    switched = np.zeros(len(pairs), bool)
    looks = sorted({first, last})
    for count in looks:
        critical = -special.stdtrit(count - 1, level / len(looks))
        error = pairs[:, :count].std(axis=1, ddof=1) / math.sqrt(count)
        found = means[:, count - 1] >= critical * error
        switched |= ahead[:, count - 1] & found
    return float(switched.mean())


def smallest_gap(
    examples: int,
    level: float = 0.05,
    differing: float = 0.2,
    *,
    comparisons: int = 1,
) -> float:
    """Gap of two accuracies that a validation split of this size can just tell.

    Networks that answer differently on a share of the examples differ in accuracy by
    100 sqrt(share / examples) percentage points by chance, one standard deviation
    (McNemar 1947).

    Args:
      examples: size of the validation split, at least 1.
      level: one-sided.
      differing: share of the examples that are right in one of the two alone; 0.2 is
        usual for two runs of a small network.
      comparisons: of how many gaps the largest is looked at. The best of many epochs
        always looks better than the last, so each has its share of the level
        (Bonferroni).

    Returns:
      Percentage points.

    Example:
      >>> round(smallest_gap(10_000), 2)
      0.74
    """
    deviations = -special.ndtri(level / comparisons)
    return float(deviations * 100 * math.sqrt(differing / examples))
