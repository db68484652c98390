"""Strict mode for every test: mistakes that JAX would mend in silence are errors."""

import importlib.util
import os
import signal
import tempfile

# Before jax is imported: every test that asks for it finds eight devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_DEVICES = "--xla_force_host_platform_device_count=8"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()

# LAPACK's threads wait for each other where tests share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Commands keep their programs here, and not at home; those of one session share them.
if "XDG_CACHE_HOME" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="hyperdyn_jax_")
    os.environ["XDG_CACHE_HOME"] = _cache.name

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# They need torch, which no extra brings.
_TORCH = ["models/test_models_torch.py", "torch_networks.py"]
collect_ignore = [] if importlib.util.find_spec("torch") else _TORCH

# Under nohup and in the background some are ignored, and so by every command of a test.
for _name, _handler in (
    ("SIGINT", signal.default_int_handler),
    ("SIGHUP", signal.SIG_DFL),
):
    if hasattr(signal, _name):
        signal.signal(getattr(signal, _name), _handler)

# The same examples every time: what is red here is red for everyone.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


class Compilations:
    """Counts the programs that XLA compiles while it is in force."""

    EVENT = "/jax/core/compile/backend_compile_duration"

    def __init__(self):
        self.count = 0

    def __call__(self, event, duration, **details):  # noqa: ARG002 (JAX's signature)
        self.count += event == self.EVENT

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self)
        return self

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self)


@pytest.fixture
def compilations():
    """`with compilations() as counter:` and then `counter.count`."""
    return Compilations


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The programs of a module's runs are compiled once and then read."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    old = [getattr(jax.config, name) for name in names]
    jax.config.update(names[0], str(tmp_path_factory.mktemp("compiled")))
    jax.config.update(names[1], 0.0)
    yield
    for name, value in zip(names, old, strict=True):
        jax.config.update(name, value)
