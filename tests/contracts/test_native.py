"""The XLA option for native loops: set on import, unless the user decided otherwise; said once where it is too late."""

import os
import subprocess
import sys

import pytest

from ppl import native

SEEN = "import os, ppl; print(os.environ.get('XLA_FLAGS', ''))"
LATE = """
import os
import warnings
import jax
jax.devices()
before = os.environ.get("XLA_FLAGS")
import ppl
assert os.environ.get("XLA_FLAGS") == before
from ppl import native
for _ in range(2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        native.warn_if_too_late()
    print(len(caught), *(str(w.message).splitlines()[0] for w in caught))
print(jax.config.jax_num_cpu_devices)
"""


def child(code, **environment):
    names = ("XLA_FLAGS", native.OPT_OUT)
    clean = {name: x for name, x in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_set_on_import_beside_the_users_flags():
    other = "--xla_force_host_platform_device_count=2"
    code = SEEN + "; import jax; print(jax.local_device_count())"
    assert child(code, XLA_FLAGS=other).splitlines() == [f"{other} {native.FLAG}", "2"]


def test_too_late_warns_once():
    first, second, devices = child(LATE).splitlines()
    assert first.startswith("1 JAX was in use before `import ppl`")
    assert second == "0"
    assert int(devices) <= 1


@pytest.fixture
def fresh(monkeypatch):
    """As in a new process whose backend is not up."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv(native.OPT_OUT, raising=False)
    monkeypatch.setattr(native, "_backend_is_up", lambda: False)
    monkeypatch.setattr(native, "_Said", type("Said", (), {"too_late": False, "told": False}))


@pytest.mark.usefixtures("fresh")
def test_alone():
    assert native.enable()
    assert os.environ["XLA_FLAGS"] == native.FLAG
    assert native.enable()
    assert os.environ["XLA_FLAGS"] == native.FLAG


@pytest.mark.usefixtures("fresh")
def test_opting_out(monkeypatch, recwarn):
    monkeypatch.setenv(native.OPT_OUT, "0")
    assert not native.enable()
    assert "XLA_FLAGS" not in os.environ
    native.warn_if_too_late()
    assert not recwarn.list


@pytest.mark.usefixtures("fresh")
def test_extra_options_of_the_user_are_kept(monkeypatch):
    mine = f"--{native.OPTION}=xla_cpu_small_while_loop_byte_threshold=5"
    monkeypatch.setenv("XLA_FLAGS", mine)
    assert native.enable()
    monkeypatch.setenv("XLA_FLAGS", f"--{native.OPTION}=other=1")
    assert not native.enable()
    assert os.environ["XLA_FLAGS"] == f"--{native.OPTION}=other=1"


@pytest.mark.usefixtures("fresh")
def test_too_late_in_this_process(monkeypatch):
    monkeypatch.setattr(native, "_backend_is_up", lambda: True)
    assert not native.enable()
    assert "XLA_FLAGS" not in os.environ
    with pytest.warns(UserWarning, match="JAX was in use before `import ppl`"):
        native.warn_if_too_late()
    native.warn_if_too_late()
