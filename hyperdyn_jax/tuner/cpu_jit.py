"""What runs on the host: small programs in float64, for NumPy arrays in and out."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # noqa: F401 (jaxlib takes its LAPACK from there)
import threadpoolctl

from hyperdyn_jax.system import compiler


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """In float64 on the host's processor: no accelerator factorises a small matrix
    faster, TPUs have no float64, and training need not wait for the decision."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the host out
        device = None
    with jax.enable_x64(True), jax.default_device(device):
        yield


def compiled(function: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Compiles once per tuner; takes and returns NumPy arrays, floats as float32.

    One thread: XLA's batched LAPACK calls wait for the pool that they run on, which
    hangs for ever when every thread of it does so (jaxlib 0.10.2), and the other cores
    are busy training. LAPACK's own threads wait for each other even over the smallest
    matrix: on busy cores a decision took 20 to 40 times as long with them.

    Args:
      function: of a tuner, or what else is fixed, and pytrees of arrays.
      options: more of the compiler's.
    """
    more = dict(options or {})

    @functools.cache
    def program() -> Any:  # XLA is asked for its options only where one is called
        known = compiler.options(**compiler.ONE_THREAD, **more)
        return jax.jit(function, static_argnums=0, compiler_options=known)

    def call(tuner: Any, *args: Any) -> Any:
        with on_host(), _lapack().limit(limits=1, user_api="blas"):
            return jax.device_get(program()(tuner, *args))

    wrapper: Any = functools.update_wrapper(call, function)
    wrapper.compilations = lambda: program()._cache_size()
    return wrapper


@functools.cache
def _lapack() -> threadpoolctl.ThreadpoolController:
    """Of the threads of every BLAS and LAPACK that is loaded by now."""
    return threadpoolctl.ThreadpoolController()


def key_data(key: jax.Array) -> np.ndarray:
    """Raw uint32 data of a typed or raw PRNG key, a form that JSON can hold."""
    try:
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.key_data(key)
        # As the tuner will read it: keys of another kind than JAX's default do not fit.
        single = jax.random.wrap_key_data(key).ndim == 0
    except (AttributeError, TypeError, ValueError):
        single = False
    if not single:
        raise ValueError(
            f"key must be one PRNG key such as jax.random.key(0), got {key!r}"
        )
    return np.asarray(key)


def split_key(key: np.ndarray) -> np.ndarray:
    """The key data for the next decision."""
    with on_host():
        return np.asarray(next_key(key))


@jax.jit
def next_key(key: jax.Array) -> jax.Array:
    """Raw data of the key after this one's."""
    return jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key))[0])


def fold(key: jax.Array, index: int | jax.Array) -> jax.Array:
    """One of the independent keys that raw key data stand for; to be traced."""
    return jax.random.fold_in(jax.random.wrap_key_data(key), index)


@compiled
def to_unit(tuner: Any, hparams: dict[str, jax.Array]) -> jax.Array:
    """Settings as points of the unit cube of the tuner's space, f32[n, d]."""
    return tuner.space.to_unit(hparams)


@compiled
def from_unit(tuner: Any, points: jax.Array) -> dict[str, jax.Array]:
    """Settings, f32[n] for every hyperparameter, of points of the unit cube."""
    return tuner.space.from_unit(points)


def _cast(tree: Any, source: Any, target: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(target) if x.dtype == source else x,
        jax.tree.map(jnp.asarray, tree),
    )


# Floats to the other precision; other numbers stay as they are.
double = functools.partial(_cast, source=jnp.float32, target=jnp.float64)
single = functools.partial(_cast, source=jnp.float64, target=jnp.float32)
