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

# Compiled programs are kept here, and not at home: all tests and the commands that they
# run share those of a session, or of many where the variable names a folder.
if "XDG_CACHE_HOME" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="hyperdyn_jax_")
    os.environ["XDG_CACHE_HOME"] = _cache.name
_PROGRAMS = os.path.join(os.environ["XDG_CACHE_HOME"], "hyperdyn_jax")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _PROGRAMS)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# They need torch and libtpu, which the test extra does not bring.
_NEEDS = {"torch": ["models/test_models_torch.py", "torch_networks.py"]}
_NEEDS["libtpu"] = ["commands/test_libtpu.py"]
_absent = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
collect_ignore = [file for name in _absent for file in _NEEDS[name]]


def pytest_report_header():
    """Says which tests are left out."""
    return [f"left out without {name}: {_NEEDS[name][0]}" for name in _absent]


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
