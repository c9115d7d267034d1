"""Trees of ancestors: paths as of full storage, bit for bit, in much less memory; what they do when they are full."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.inference import ancestor_tree
from ppl.inference.ancestor_tree import TreeKeeper, capacity_of
from ppl.inference.path_tree import PathTree
from ppl.inference.smc import swept_run
from ppl.semantics.keeping import Step


@ppl.model
def model(ys):
    """Choices before, in and between two loops, one of them backwards; a branch; a vector."""
    scale = ppl.sample("scale", dist.HalfNormal(1.0))
    ppl.factor("first", -scale)

    def step(x, y):
        x = ppl.sample("x", dist.Normal(x, jnp.ones(2)).to_event(1))
        jump = ppl.sample("jump", dist.Bernoulli(0.375))
        extra = jax.lax.cond(jump == 1, lambda: ppl.sample("extra", dist.Normal(0.0, 2.0)), lambda: 0.0)
        ppl.sample("y", dist.Normal(x[0] + extra, 0.5), obs=y)
        return x, None

    last, _ = jax.lax.scan(step, jnp.zeros(2), ys)
    ppl.sample("between", dist.Normal(last[1], 1.0))

    def back(z, y):
        z = ppl.sample("z", dist.Normal(z, 1.0))
        ppl.deterministic("twice", 2 * z)
        ppl.sample("v", dist.Normal(z, 0.5), obs=y)
        return z, None

    return jax.lax.scan(back, last[0], ys[:4], reverse=True)[0]


SERIES = np.random.default_rng(3).normal(size=24).astype(np.float32)
METHOD = ppl.SMC(60, "multinomial", None)


@pytest.fixture(scope="module")
def both():
    """The same run, with full storage and with a tree."""
    program = model(SERIES)
    return [ppl.infer(program, replace(METHOD, store=store), key=3) for store in ("paths", "tree")]


@pytest.mark.slow
def test_paths_off_the_tree_are_those_of_full_storage(both):
    full, tree = both
    found = {**tree.history.trees.paths(), **{a: x[0] for a, x in tree.draws.items()}}
    stored = full.draws | full.deterministic
    assert found.keys() == stored.keys()
    for address, x in stored.items():
        np.testing.assert_array_equal(found[address], x[0])
    np.testing.assert_array_equal(tree.history.trees.masks()["extra"], full.masks["extra"][0])
    np.testing.assert_array_equal(tree.log_weights, full.log_weights)
    assert tree.log_evidence == full.log_evidence


@pytest.mark.slow
def test_paths_of_some_particles(both):
    full, tree = both
    some = np.array([41, 3, 3])
    np.testing.assert_array_equal(tree.history.trees.paths(some)["x"], full.draws["x"][0][some])


@pytest.mark.slow
def test_a_tree_that_reuses_slots_of_the_living_is_noticed(both, monkeypatch):
    """The mutant: a collection looks at the leaves alone, not at whoever is above them."""

    def forgetful(condition, body, start):
        del condition, body
        return start

    _, tree = both
    monkeypatch.setattr(ancestor_tree.lax, "while_loop", forgetful)
    program, wrong = model(SERIES), ppl.SMC(60, "multinomial", None, store="tree").algorithm(0.5)
    kept = jax.jit(partial(unjitted, program, transformer=wrong))(jax.random.key(3))["kept"]
    paths = PathTree(program, kept).paths()
    assert not np.array_equal(paths["x"], tree.history.trees.paths()["x"])


def unjitted(program, key, transformer):
    return swept_run.__wrapped__(program, key, transformer, "tree")


def test_the_living_are_few(both):
    """Fewer nodes than the capacity, which is below full storage in the long run."""
    _, tree = both
    trees = tree.history.trees
    assert 0 < trees.nodes <= sum(len(t.parent) for t in trees.trees.values())
    assert capacity_of(10_000, 3_000) < 10_000 * 3_000 / 100


def test_a_full_tree_says_so_and_the_method_takes_a_larger_one(both):
    full, _ = both
    program, small = model(SERIES), replace(METHOD, store="tree").algorithm(0.0)
    found = swept_run(program, jax.random.key(3), small, "tree")
    assert any(bool(t.overflow) for t in found["kept"].values())
    assert full.log_evidence.estimate == pytest.approx(float(found["log_evidence"]), abs=1e-6)


def test_a_tree_by_hand():
    """Three particles, three steps; for the third, slots of those that died are collected (0 and 11 live)."""
    keeper = TreeKeeper(0.5)
    state = keeper.start(3, jax.ShapeDtypeStruct((3,), jnp.int32), 3)
    assert len(state.free) == 8
    for time, ancestors in enumerate([[0, 1, 2], [0, 0, 2], [1, 1, 1]]):
        written = jnp.arange(3, dtype=jnp.int32) + 10 * time
        state = keeper.step(state, Step(time, jnp.array(ancestors, jnp.int32), written, jnp.zeros(3)))
    (path, origin) = ancestor_tree.tree_paths(state.tree, jnp.arange(3, dtype=jnp.int32), length=3, reverse=False)
    assert path.tolist() == [[0, 11, 20], [0, 11, 21], [0, 11, 22]]
    assert origin.tolist() == [0, 0, 0]
    assert (int(state.top), int(state.tree.used), bool(state.tree.overflow)) == (3, 5, False)
