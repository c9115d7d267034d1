"""Laws 30 and 35 to 38, each as a gap that is zero for ours and not for a mutant; more cases in `tests/semantics`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

import ppl
import ppl.distributions as dist
from tests.laws import mutants
from tests.laws.exact import ATOL, DEAD, double, ours  # noqa: F401
from tests.oracle.fractions_enumerator import paths
from tests.oracle.generate import SKELETONS, fillings
from tests.oracle.render import choice_arrays, to_program


def difference(left, right):
    """The largest difference of any number in two pytrees."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, float) - np.asarray(b, float)))) for a, b in pairs)


# --- 30: replay and density -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["branch_shared", "loop_observed"])
def test_30_the_density_is_the_sum_of_the_sites_and_the_mass_of_the_path(structure):
    @settings(max_examples=8)
    @given(fillings(SKELETONS[structure]))
    def check(drawn):
        possible = [path for path in paths(drawn) if path.mass]
        assume(possible)
        choices = choice_arrays(drawn, possible[-1].choices)
        assert density_gap(to_program(drawn), choices, float(np.log(float(possible[-1].mass)))) < ATOL

    check()


def density_gap(program, choices, mass, wrong=None):
    """The joint density against the sum of all sites' terms, and against the mass of the path."""
    density = (wrong or (lambda p: p))(program).log_density(choices)
    terms = sum(jnp.sum(term) for term in jax.tree.leaves(program.terms(choices)))
    return max(difference(density, terms), difference(density, mass))


def replay_gap(program, choices, replay):
    """Two replays of one set of choices, with different randomness at hand."""
    return difference(replay(program, choices, 1).recorded, replay(program, choices, 2).recorded)


def generated(program, choices, key):
    return program.generate(key, choices)


def with_one_redrawn(program, choices, key):
    return program.generate(key, {address: value for address, value in choices.items() if address != "b"})


def test_30_replay_is_deterministic_and_mutants_die():
    program = ours("observed")
    choices = {"a": jnp.array(2), "b": jnp.array(1), "c": jnp.array(0)}
    mass = float(program.enumerate().condition(choices).log_mass)
    assert density_gap(program, choices, mass) < ATOL
    assert density_gap(program, choices, mass, mutants.scored_twice) > DEAD
    assert replay_gap(program, choices, generated) == 0.0
    assert max(replay_gap(program, choices, partial(_reseeded, seed)) for seed in range(8)) > DEAD


def _reseeded(seed, program, choices, key):
    return with_one_redrawn(program, choices, 10 * seed + key)


# --- 35 to 37: keys ---------------------------------------------------------------------------------------------------


@ppl.model
def reordered(backwards, scale):
    """Three independent statements in either order."""
    parts = {
        "x": lambda: ppl.sample("x", dist.Normal(1.0, scale)),
        "z": lambda: ppl.sample("z", dist.Uniform(0.0, 3.0)),
        "lanes": lambda: ppl.vmap(lambda: ppl.sample("lanes", dist.Normal(0.0, 1.0)), axis_size=3)(),
    }
    for name in reversed(parts) if backwards else parts:
        parts[name]()


def simulate(backwards, key, scale=2.0):
    return reordered(backwards, jnp.array(scale)).simulate(key).choices


def by_turns(backwards, key):
    """The mutant of law 37: a key for each choice in order of evaluation."""
    names = ["x", "z", "lanes"][:: -1 if backwards else 1]
    keys = dict(zip(names, jax.random.split(key, 3), strict=True))
    return {name: jax.random.normal(keys[name], (3,) if name == "lanes" else ()) for name in sorted(names)}


def order_gap(draw, key):
    return difference(_by_name(draw(False, key)), _by_name(draw(True, key)))


def _by_name(choices):
    return dict(sorted(choices.items()))


def loop_gap(batch, key):
    """A batch of runs against a loop over the same keys."""
    keys = jax.random.split(key, 4)
    return difference(batch(keys), jax.tree.map(lambda *x: jnp.stack(x), *[simulate(False, k) for k in keys]))


def test_35_a_batch_is_a_loop_over_the_same_keys(key):
    assert loop_gap(jax.vmap(partial(simulate, False)), key) < ATOL
    one_key = lambda keys: jax.vmap(lambda _: simulate(False, keys[0]))(jnp.arange(4))
    assert loop_gap(one_key, key) > DEAD


def jit_gap(compiled, key):
    """Draws by a compiled function against those op by op, for two values of an argument."""
    gaps = []
    for scale in (2.0, 0.5):
        with jax.disable_jit():
            eager = simulate(False, key, scale)
        gaps.append(difference(compiled(key, scale), eager))
    return max(gaps)


def test_36_jit_equals_eager(key):
    assert jit_gap(jax.jit(lambda key, scale: simulate(False, key, scale)), key) < ATOL
    stale = jax.jit(lambda key, _: simulate(False, key, 2.0))
    assert jit_gap(stale, key) > DEAD


def test_37_order_leaves_draws_as_they_were(key):
    assert order_gap(simulate, key) == 0.0
    assert order_gap(by_turns, key) > DEAD


# --- 38: masks --------------------------------------------------------------------------------------------------------


@ppl.model
def branched(flag):
    """x is chosen only where the flag says so."""
    return jax.lax.cond(flag, lambda: ppl.sample("x", dist.Normal(1.0, 2.0)), lambda: jnp.array(0.5))


@ppl.model
def selected(flag):
    """The mutant: x is chosen always, and used only where the flag says so."""
    return jnp.where(flag, ppl.sample("x", dist.Normal(1.0, 2.0)), 0.5)


def mask_gap(maker):
    """How much the density says about the value of a choice that was not made."""
    program = maker(jnp.array(False))
    return difference(program.log_density({"x": jnp.array(3.0)}), program.log_density({"x": jnp.array(-4.0)}))


def test_38_masked_choices_count_for_nothing():
    assert mask_gap(branched) == 0.0
    assert mask_gap(selected) > DEAD
