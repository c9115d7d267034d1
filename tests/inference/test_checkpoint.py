"""Checkpoints: resumed bit for bit, refused where they are of another run or damaged."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import ConvergenceWarning, FileFormatError
from ppl.inference import checkpoint, runner
from ppl.inference.trace_mh import trace_mh_kernel

METHODS = {"NUTS": ppl.NUTS(), "MCMC": ppl.MCMC(trace_mh_kernel)}
SETTINGS = {"chains": 3, "warmup": 40, "draws": 200, "progress": False}


@ppl.model
def measured(y):
    mu = ppl.sample("mu", dist.Normal(1.0, 2.0))
    with ppl.plate("n", 3):
        ppl.sample("y", dist.Normal(mu, 1.0), obs=y)
    return mu


PROGRAM = measured(jnp.array([0.3, 1.9, -0.4]))


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


class Killed(Exception):
    """The process ends here."""


def stopped_after(monkeypatch, saves, path, method, **settings):
    """A run that saves at every look, and dies at the next save after some saves with draws in them."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 0.0)
    monkeypatch.setattr(runner, "FIRST", 4)
    monkeypatch.setattr(runner, "SLICE", 1e-9)
    monkeypatch.setattr(runner, "LOOK", 1e-4)
    count, save = [0], checkpoint.Checkpoint.__call__

    def counted(self, tracks, *, lazily=False):
        if count[0] >= saves or not lazily:
            raise Killed
        save(self, tracks, lazily=lazily)
        count[0] += any(track is not None and track.batches for track in tracks)

    monkeypatch.setattr(checkpoint.Checkpoint, "__call__", counted)
    with pytest.raises(Killed):
        ppl.infer(PROGRAM, method, key=2, checkpoint=path, **{**SETTINGS, **settings})
    monkeypatch.undo()


@pytest.mark.parametrize("keep", [None, ["mu"]])
@pytest.mark.parametrize("name", list(METHODS))
def test_resumed_bit_for_bit(name, keep, tmp_path, monkeypatch):
    path, method = tmp_path / "run.ckpt", METHODS[name]
    whole = ppl.infer(PROGRAM, method, key=2, keep=keep, **SETTINGS)
    stopped_after(monkeypatch, 1, path, method, keep=keep)
    started = []
    advance = runner._advanced
    monkeypatch.setattr(runner, "_advanced", lambda s, t, b, r: started.append(s.done(t.carry)) or advance(s, t, b, r))
    resumed = ppl.infer(PROGRAM, method, key=2, keep=keep, checkpoint=path, **SETTINGS)
    assert max(started) > 0
    for part in ("draws", "stats"):
        for address, values in getattr(whole, part).items():
            np.testing.assert_array_equal(getattr(resumed, part)[address], values, err_msg=address)


@pytest.fixture(scope="module", params=list(METHODS))
def finished(request, tmp_path_factory):
    """A file of a whole run, and its method."""
    path, method = tmp_path_factory.mktemp("finished") / "run.ckpt", METHODS[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return path, method, ppl.infer(PROGRAM, method, key=2, checkpoint=path, **SETTINGS)


def test_a_finished_run_is_read_back(finished, monkeypatch):
    path, method, whole = finished
    monkeypatch.setattr(runner, "_advanced", None)
    again = ppl.infer(PROGRAM, method, key=2, checkpoint=path, **SETTINGS)
    np.testing.assert_array_equal(again.draws["mu"], whole.draws["mu"])


@ppl.model
def wider(y):
    mu = ppl.sample("mu", dist.Cauchy(1.0, 2.0))
    with ppl.plate("n", 3):
        ppl.sample("y", dist.Normal(mu, 1.0), obs=y)


def with_numbers(spread, weights):
    """The program with other numbers in the code of its model: the same name and sites."""

    def measured(y):
        mu = ppl.sample("mu", dist.Normal(1.0, spread))
        ppl.factor("lean", mu * jnp.asarray(weights).sum())
        with ppl.plate("n", 3):
            ppl.sample("y", dist.Normal(mu, 1.0), obs=y)
        return mu

    return ppl.model(measured)(jnp.array([0.3, 1.9, -0.4]))


def program_print(program):
    return checkpoint.fingerprint(program, jax.random.key(0), "", None)["program"]


def test_numbers_in_the_code_are_part_of_the_program():
    one = program_print(with_numbers(2.0, np.array([0.5, 1.0])))
    assert program_print(with_numbers(2.0, np.array([0.5, 1.0]))) == one
    assert program_print(with_numbers(2.5, np.array([0.5, 1.0]))) != one
    assert program_print(with_numbers(2.0, np.array([0.5, 1.5]))) != one


def test_lines_of_the_code_are_not():
    texts = ["sample[site='mu' latent @ my model.py:7] 2.0", "sample[site='mu' latent @ my model.py:19] 2.0"]
    assert len({checkpoint._without_lines(text) for text in texts}) == 1
    assert checkpoint._without_lines(texts[0]).endswith("latent] 2.0")


OTHERS = {
    "program (a number)": {"program": with_numbers(2.0, np.array([0.0, 1e-9]))},
    "data": {"program": measured(jnp.array([0.3, 1.9, -0.5]))},
    "program": {"program": wider(jnp.array([0.3, 1.9, -0.4]))},
    "key": {"key": 3},
    "settings": {"draws": 61, "warmup": 30},
    "method": {"method": ppl.NUTS(target_acceptance=0.9)},
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_a_file_of_another_run_is_refused_and_left_alone(what, finished):
    path, method, _ = finished
    before = path.read_bytes()
    arguments = {"program": PROGRAM, "method": method, "key": 2, **SETTINGS, **OTHERS[what]}
    program, method = arguments.pop("program"), arguments.pop("method")
    with pytest.raises(FileFormatError, match=rf"is of another run: other .*{what.split()[0]}"):
        ppl.infer(program, method, checkpoint=path, **arguments)
    assert path.read_bytes() == before


def test_another_start_is_another_method(finished):
    path, method, _ = finished
    if isinstance(method, ppl.NUTS):
        with pytest.raises(FileFormatError, match="other method"):
            ppl.infer(PROGRAM, ppl.NUTS(start={"mu": 0.5}), key=2, checkpoint=path, **SETTINGS)


def test_a_damaged_file_is_refused(finished, tmp_path):
    path, method, _ = finished
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    for broken in (bytes(content), path.read_bytes()[:100], b""):
        other = tmp_path / "broken.ckpt"
        other.write_bytes(broken)
        with pytest.raises(FileFormatError):
            ppl.infer(PROGRAM, method, key=2, checkpoint=other, **SETTINGS)
        assert other.read_bytes() == broken


def kept(choices):
    return choices["mu"]


def test_descriptions_do_not_depend_on_addresses_in_memory():
    """Else a run with a function among its settings could not be resumed in another process."""
    first, second = (
        checkpoint.fingerprint(PROGRAM, jax.random.key(0), repr(f), {"keep": repr(f)})
        for f in (kept, type(kept)(kept.__code__, {}, "kept"))
    )
    assert first == second
    assert "kept" in first["method"]


CHILD = """
import sys, time, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {root!r})
from ppl.inference import checkpoint
checkpoint.SECONDS = checkpoint.SHARE = 0.0
from tests.inference import test_checkpoint as t
import ppl
t.ppl.infer(t.PROGRAM, t.METHODS[{name!r}], key=2, checkpoint={path!r}, **dict(t.SETTINGS, draws=200000))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_kill_9(name, tmp_path):
    """A process is killed while it draws; another one goes on from its file."""
    root, path = str(Path(__file__).parents[2]), tmp_path / "run.ckpt"
    code = CHILD.format(root=root, name=name, path=str(path))
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "JAX_PLATFORMS": "cpu"})
    deadline = time.monotonic() + 120
    while not (path.exists() and path.stat().st_size > 100_000):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    settings = SETTINGS | {"draws": 200_000}
    resumed = ppl.infer(PROGRAM, METHODS[name], key=2, checkpoint=path, **settings)
    whole = ppl.infer(PROGRAM, METHODS[name], key=2, **settings)
    np.testing.assert_array_equal(resumed.draws["mu"], whole.draws["mu"])
