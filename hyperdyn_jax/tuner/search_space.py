"""Search spaces: named axes mapped to and from the unit cube.

The surrogate model works on the unit cube [0, 1]^d; the network is trained with
hyperparameters in their own units. An axis is the map between the two, chosen so that
equal distances in the cube mean equally different settings.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hyperdyn_jax.system import checks


class Axis(Protocol):
    """A monotone map of [low, high] onto [0, 1]."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    def to_unit(self, value: ArrayLike) -> jax.Array: ...

    def from_unit(self, unit: ArrayLike) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """An axis on which equal differences matter equally.

    Args:
      low: smallest value, finite.
      high: largest value, finite, greater than `low`.

    Raises:
      ValueError: the bounds are not finite, reversed, equal, or equal in float32.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self)

    def to_unit(self, value: ArrayLike) -> jax.Array:
        """Maps f32[...] in [low, high] to f32[...] in [0, 1]."""
        return _unit((_f32(value) - self.low) / (self.high - self.low))

    def from_unit(self, unit: ArrayLike) -> jax.Array:
        """Maps f32[...] in [0, 1] to f32[...] in [low, high]."""
        unit = _f32(unit)
        # Not low + u (high - low), which need not end at high.
        return _inside(self, self.low * (1 - unit) + self.high * unit)


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """An axis on which equal ratios matter equally: learning rates, weight decay.

    Args:
      low: smallest value, finite, greater than zero.
      high: largest value, finite, greater than `low`.

    Raises:
      ValueError: the bounds are not finite, reversed, equal, or not positive.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self)
        if self.low <= 0:
            raise ValueError(
                f"LogUniform needs low > 0 (at least {_SMALLEST}), got low="
                f"{self.low}; use Uniform for an axis that includes zero"
            )

    def to_unit(self, value: ArrayLike) -> jax.Array:
        """Maps f32[...] in [low, high] to f32[...] in [0, 1]."""
        span = math.log(self.high) - math.log(self.low)
        value = _inside(self, _f32(value))  # a negative one has no logarithm
        return _unit((jnp.log(value) - math.log(self.low)) / span)

    def from_unit(self, unit: ArrayLike) -> jax.Array:
        """Maps f32[...] in [0, 1] to f32[...] in [low, high]."""
        unit = _f32(unit)
        exponent = math.log(self.low) * (1 - unit) + math.log(self.high) * unit
        return _inside(self, jnp.exp(exponent))


@dataclasses.dataclass(frozen=True)
class LogComplement:
    """An axis log-uniform in 1 - value: momentum, beta1, beta2.

    What matters of a decay rate is its memory 1 / (1 - value), so 0.9 -> 0.99 is as
    long a way as 0.99 -> 0.999.

    Args:
      low: smallest value, finite, less than one.
      high: largest value, greater than `low`, less than one in float32.

    Raises:
      ValueError: the bounds are not finite, reversed, equal, or not below one.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self)
        if np.float32(self.high) >= 1:
            raise ValueError(
                f"LogComplement needs high < 1 in float32 (at most 0.99999994), "
                f"got high={self.high}"
            )

    def to_unit(self, value: ArrayLike) -> jax.Array:
        """Maps f32[...] in [low, high] to f32[...] in [0, 1]."""
        first, last = math.log1p(-self.low), math.log1p(-self.high)
        value = _inside(self, _f32(value))  # one above 1 has no logarithm
        return _unit((jnp.log1p(-value) - first) / (last - first))

    def from_unit(self, unit: ArrayLike) -> jax.Array:
        """Maps f32[...] in [0, 1] to f32[...] in [low, high]."""
        unit = _f32(unit)
        first, last = math.log1p(-self.low), math.log1p(-self.high)
        return _inside(self, -jnp.expm1(first * (1 - unit) + last * unit))


class SearchSpace(Mapping[str, Axis]):
    """A box of hyperparameters, `S` in the paper: one axis a hyperparameter.

    Args:
      **axes: the axes by the name Optax gives the hyperparameter.

    Raises:
      ValueError: there is no axis.
      TypeError: a value is not an axis.

    Example:
      >>> space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0),
      ...                     momentum=Uniform(0.0, 0.99))
      >>> space.to_unit({"learning_rate": 1.0, "momentum": 0.0}).tolist()
      [1.0, 0.0]
    """

    def __init__(self, **axes: Axis):
        if not axes:
            raise ValueError(
                "SearchSpace needs at least one axis, for example "
                "SearchSpace(learning_rate=LogUniform(1e-3, 1.0))"
            )
        for name, axis in axes.items():
            if not isinstance(axis, Uniform | LogUniform | LogComplement):
                raise TypeError(
                    f"axis {name!r} must be Uniform, LogUniform or LogComplement, "
                    f"got {axis!r}"
                )
        self._axes = dict(axes)

    def __getitem__(self, name: str) -> Axis:
        return self._axes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        """Number of axes, `d`."""
        return len(self._axes)

    # Equal spaces hash alike, so that a space can be a static argument of jit. The
    # order of the axes is part of it: it is the order of the cube's coordinates.
    def __hash__(self) -> int:
        return hash(tuple(self._axes.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and tuple(self._axes.items()) == tuple(
            other._axes.items()
        )

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={axis}" for name, axis in self._axes.items())
        return f"SearchSpace({axes})"

    def to_unit(self, hparams: Mapping[str, ArrayLike]) -> jax.Array:
        """Maps hyperparameters to the unit cube.

        Args:
          hparams: f32[...] for every axis, all of one shape. Values outside the
            bounds land on the nearest face.

        Returns:
          f32[..., d] in [0, 1], in the order of the axes.

        Raises:
          ValueError: names are missing or unknown.
        """
        if set(hparams) != set(self):
            raise ValueError(
                f"expected hyperparameters {sorted(self)}, got {sorted(hparams)}"
            )
        units = [axis.to_unit(hparams[name]) for name, axis in self.items()]
        return jnp.stack(units, axis=-1)

    def from_unit(self, points: ArrayLike) -> dict[str, jax.Array]:
        """Maps points of the unit cube to hyperparameters inside the bounds.

        Args:
          points: f32[..., d] in [0, 1].

        Returns:
          f32[...] for every axis.
        """
        points = _f32(points)
        return {
            name: axis.from_unit(points[..., i])
            for i, (name, axis) in enumerate(self.items())
        }

    def sample(self, key: jax.Array, count: int) -> dict[str, jax.Array]:
        """Draws `count` settings uniformly from the cube: f32[count] for every axis."""
        return self.from_unit(jax.random.uniform(key, (count, len(self))))


def _check_bounds(axis: Axis) -> None:
    low, high, name = axis.low, axis.high, type(axis).__name__
    for end, bound in (("low", low), ("high", high)):
        if not checks.is_number(bound):
            raise ValueError(f"{name} bounds must be numbers, got {bound!r}")
        if not abs(bound) <= _LARGEST:
            raise ValueError(
                f"{name} bounds must be finite (within ±{_LARGEST}), got {bound}"
            )
        if 0 < abs(bound) < _SMALLEST:
            raise ValueError(
                f"{name} bounds must be zero or at least {_SMALLEST} in size, "
                f"got {bound}"
            )
        if isinstance(bound, np.generic):  # the axis is frozen, and so its own number
            object.__setattr__(axis, end, bound.item())
    if low > high:
        raise ValueError(f"{name} bounds are reversed: low={low} > high={high}")
    first, last = _float32_bounds(axis)
    if first >= last or high - low < _SMALLEST:
        raise ValueError(
            f"{name} is empty: low={low} and high={high} leave no float32 range "
            f"between them"
        )


# Between them the maps stay among the normal float32 numbers; XLA takes the subnormal
# ones beyond for zero, and a quotient of two of them is NaN.
_SMALLEST, _LARGEST = 1e-37, 1e37


def _float32_bounds(axis: Axis) -> tuple[np.float32, np.float32]:
    """The outermost float32 values that lie inside the bounds as the user wrote them:
    float32(0.99) is greater than 0.99, and would be out of bounds."""
    low, high = np.float32(axis.low), np.float32(axis.high)
    if float(low) < axis.low:
        low = np.nextafter(low, np.float32(np.inf))
    if float(high) > axis.high:
        high = np.nextafter(high, np.float32(-np.inf))
    return low, high


def _f32(value: ArrayLike) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _unit(unit: jax.Array) -> jax.Array:
    return jnp.clip(unit, 0.0, 1.0)


def _inside(axis: Axis, value: jax.Array) -> jax.Array:
    return jnp.clip(value, *_float32_bounds(axis))
