"""The runner, on a sampler in plain NumPy: chunks, order, threads, errors, interruptions."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from ppl.inference import runner
from ppl.inference.progress import Progress, Reporter
from ppl.inference.runner import Batch, Group, Sampler, Track, groups_of, run


class Carry(NamedTuple):
    """Chains, where each stands, transitions made."""

    chains: np.ndarray
    value: np.ndarray
    done: Any


@dataclass(eq=False)
class Counter:
    """A chain's value is a deterministic recursion; `slow` seconds a transition, an error or a stop on demand."""

    warmup: int = 20
    draws: int = 30
    slow: float = 0.0
    fail_at: int | None = None
    seen: list = field(default_factory=list)
    at: Any = None

    @property
    def total(self):
        return self.warmup + self.draws

    @property
    def signature(self):
        return "counter"

    def done(self, carry):
        return int(carry.done)

    def start(self, chains, device):
        numbers = np.asarray(chains)
        return Carry(numbers, numbers + 1.0, np.int64(0))

    def advance(self, carry, transitions):
        done = int(carry.done)
        warm = done < self.warmup
        count = min(transitions, (self.warmup if warm else self.total) - done)
        self.seen.append((threading.current_thread().name, int(carry.chains[0]), done, count))
        time.sleep(self.slow * count)
        value, rows = carry.value, []
        for k in range(count):
            if self.fail_at == done + k and carry.chains[0] == 1:
                raise FloatingPointError("chain 1 broke")
            value = (3.7 + 0.01 * carry.chains) * (value % 1.0) * (1 - value % 1.0) + carry.chains
            rows.append(value)
        kept = np.stack(rows, axis=1)[:, : 0 if warm else count]
        if self.at is not None:
            self.at(done + count)
        return Carry(carry.chains, value, np.int64(done + count)), Batch({"x": kept}, Progress(count * len(value)))


def ran(sampler, groups, **more):
    return run(sampler, groups, Reporter(sampler.total, show=False), **more)


def test_the_counter_is_a_sampler():
    assert isinstance(Counter(), Sampler)


@pytest.mark.parametrize(("first", "cut"), [(1, 1e-9), (7, 1.0), (1000, 1000.0)])
def test_draws_do_not_depend_on_chunks_or_groups(first, cut, monkeypatch):
    whole = ran(Counter(), [Group((0, 1, 2), None)]).kept["x"]
    monkeypatch.setattr(runner, "FIRST", first)
    monkeypatch.setattr(runner, "SLICE", cut)
    for groups in ([Group((i,), None) for i in range(3)], [Group((0, 1), None), Group((2,), None)]):
        visited = ran(Counter(), groups)
        np.testing.assert_array_equal(visited.kept["x"], whole)
        assert not visited.interrupted
        assert [int(carry.done) for carry in visited.carries] == [50] * len(groups)


def test_going_on_from_tracks_is_a_longer_run():
    groups = [Group((i,), None) for i in range(3)]
    whole, part = ran(Counter(), groups), ran(Counter(draws=12), groups)
    more = ran(Counter(), groups, tracks=[Track(carry) for carry in part.carries])
    np.testing.assert_array_equal(np.concatenate([part.kept["x"], more.kept["x"]], axis=1), whole.kept["x"])


def test_an_error_in_a_thread_stops_the_others_and_is_raised(monkeypatch):
    monkeypatch.setattr(runner, "FIRST", 1)
    sampler = Counter(draws=10_000, slow=1e-3, fail_at=3)
    with pytest.raises(FloatingPointError, match="chain 1 broke"):
        ran(sampler, [Group((i,), None) for i in range(3)])
    assert sum(count for *_, count in sampler.seen) < 5000


def interrupting(monkeypatch, when):
    """The main thread sees Ctrl-C once, at a look at its threads after `when()` holds."""
    pending, waited = [True], runner.wait

    def wait(futures, timeout):
        if pending and when():
            pending.clear()
            raise KeyboardInterrupt
        return waited(futures, timeout=0.01)

    monkeypatch.setattr(runner, "wait", wait)


def test_an_interruption_keeps_what_every_chain_has(monkeypatch):
    """More chains than threads: none is left behind in its warm-up."""
    monkeypatch.setattr(runner, "FIRST", 5)
    monkeypatch.setattr(runner, "SLICE", 0.005)
    sampler = Counter(draws=10_000, slow=2e-4)
    groups, latest = [Group((i,), None) for i in range(8)], [0]
    sampler.at = lambda done: latest.__setitem__(0, max(latest[0], done))
    interrupting(monkeypatch, lambda: latest[0] > 150)
    visited = ran(sampler, groups)
    assert visited.interrupted
    drawn = visited.kept["x"]
    assert drawn.shape[0] == 8
    assert 60 < drawn.shape[1] < 10_000
    whole = ran(Counter(draws=drawn.shape[1]), groups).kept["x"]
    np.testing.assert_array_equal(drawn, whole)


def test_an_interruption_of_the_warm_up_is_raised_after_a_save(monkeypatch):
    monkeypatch.setattr(runner, "FIRST", 5)
    monkeypatch.setattr(runner, "SLICE", 0.001)
    sampler, saves = Counter(warmup=10_000, slow=1e-3), []
    interrupting(monkeypatch, lambda: len(sampler.seen) > 3)
    with pytest.raises(KeyboardInterrupt, match="during warm-up"):
        ran(
            sampler,
            [Group((0,), None), Group((1,), None)],
            save=lambda tracks, lazily=False: saves.append((lazily, tracks)),
        )
    lazily, tracks = saves[-1]
    assert not lazily
    assert any(track is not None and track.carry.done > 0 for track in tracks)


def test_layouts():
    assert groups_of(3, "threads") == [Group((i,), None) for i in range(3)]
    assert groups_of(3, "vmap") == [Group((0, 1, 2), None)]
    devices = groups_of(3, "devices")
    assert [g.chains for g in devices] == [(0, 1, 2)]
    assert devices[0].device == jax.local_devices()[0]
    assert groups_of(4, None) == groups_of(4, "threads")
    assert groups_of(10_000, None) == groups_of(10_000, "threads")


def test_each_group_computes_on_its_device(monkeypatch):
    default = []
    sampler = Counter(at=lambda _: default.append(jax.config.jax_default_device))
    device = jax.local_devices()[0]
    ran(sampler, [Group((0,), device)])
    assert set(default) == {device}
    default.clear()
    ran(sampler, [Group((0,), None)])
    assert set(default) == {None}
