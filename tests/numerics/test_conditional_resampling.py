"""Conditional resampling has the law of the scheme, cyclically shifted, given its first ancestor. Exact."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.distributions.ancestors import Ancestors, ConditionalAncestors
from ppl.errors import MeasureError, NotFiniteError
from ppl.numerics.cells import cells_of, metropolis_cells
from ppl.numerics.conditional_resampling import CONDITIONAL
from ppl.numerics.resampling import resampler
from ppl.numerics.ssp import ssp
from tests.oracle import transformers as oracle

LAWS = {
    "multinomial": oracle.multinomial_law,
    "systematic": oracle.systematic_law,
    "killing": oracle.killing_law,
}
WEIGHTS = [
    (3, 5, 2),
    (1, 0, 6),
    (5, 0, 0),
    (1, 9, 4),
    (7, 1, 0),
]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def log(weights):
    with np.errstate(divide="ignore"):
        return jnp.log(jnp.asarray(weights, jnp.float64))


def listed(outcomes, n):
    """Probabilities of joint ancestors, from joint outcomes or from independent positions."""
    values, probs = np.asarray(outcomes.values), np.exp(np.asarray(outcomes.log_probs))
    law = {}
    if probs.ndim == 1:
        pairs = zip(map(tuple, values.tolist()), probs, strict=True)
    else:
        rows = np.indices((len(values),) * n).reshape(n, -1).T
        pairs = ((tuple(values[r, range(n)].tolist()), float(np.prod(probs[r, range(n)]))) for r in rows)
    for ancestors, p in pairs:
        law[ancestors] = law.get(ancestors, 0.0) + p
    return {ancestors: p for ancestors, p in law.items() if p}


def wanted(scheme, weights, n):
    shares = [Fraction(w, sum(weights)) for w in weights]
    return oracle.given_first(oracle.shifted(LAWS[scheme](shares, n), n))


def distance(left, right):
    return max(abs(left.get(k, 0.0) - float(right.get(k, 0))) for k in left.keys() | right.keys())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("scheme", list(CONDITIONAL))
def test_the_conditional_law_of_the_shifted_scheme(scheme, n):
    outcomes = jax.jit(lambda log_weights: ConditionalAncestors(log_weights, n, scheme).outcomes())
    for weights in WEIGHTS:
        law = listed(outcomes(log(weights)), n)
        assert all(ancestors[0] == 0 for ancestors in law)
        assert distance(law, wanted(scheme, weights, n)) < 1e-10


@pytest.mark.parametrize("scheme", ["systematic", "killing"])
def test_retaining_without_conditioning_dies(scheme):
    """The mutant: unconditional ancestors of which the first is set to 0."""
    outcomes = Ancestors(log((2, 1, 2)), 3, scheme).outcomes()
    law = {}
    for ancestors, p in listed(outcomes, 3).items():
        kept = (0, *ancestors[1:])
        law[kept] = law.get(kept, 0.0) + p
    assert distance(law, wanted(scheme, (2, 1, 2), 3)) > 0.05


@pytest.mark.parametrize("scheme", list(CONDITIONAL))
@pytest.mark.slow
def test_draws_have_the_law_of_the_cells(scheme, key):
    """False alarm rate 1e-6: at most 27 outcomes, each a z-test at 1e-6 / 27 (5.5 standard errors)."""
    draws, measure = 20_000, ConditionalAncestors(log((3, 5, 2)), 3, scheme)
    found, counts = np.unique(np.asarray(measure.sample(key, (draws,))), axis=0, return_counts=True)
    law = listed(measure.outcomes(), 3)
    shares = dict(zip(map(tuple, found.tolist()), counts / draws, strict=True))
    assert shares.keys() <= law.keys()
    errors = {a: abs(shares.get(a, 0.0) - p) / np.sqrt(p * (1 - p) / draws + 1e-12) for a, p in law.items()}
    assert max(errors.values()) < 5.5
    other = listed(ConditionalAncestors(log((3, 4, 3)), 3, scheme).outcomes(), 3)  # the mutant
    assert max(abs(shares.get(a, 0.0) - p) / np.sqrt(p / draws) for a, p in other.items()) > 5.5


@pytest.mark.parametrize("scheme", list(CONDITIONAL))
def test_dead_populations_and_retained_particles_without_weight(scheme):
    dead = listed(ConditionalAncestors(log((0, 0, 0)), 3, scheme).outcomes(), 3)
    assert dead == {(0, 1, 2): 1.0}
    law = listed(ConditionalAncestors(log((0, 2, 1)), 3, scheme).outcomes(), 3)
    assert sum(law.values()) == pytest.approx(1.0)
    assert all(ancestors[0] == 0 and 0 not in ancestors[1:] for ancestors in law)


def test_unknown_names_and_too_many_outcomes_are_said():
    with pytest.raises(MeasureError, match="no conditional version of a resampling scheme 'ssp'"):
        ConditionalAncestors(log((1, 2)), 2, "ssp").sample(jax.random.key(0))
    with pytest.raises(MeasureError, match="no resampling scheme 'sytematic'"):
        resampler("sytematic")
    assert Ancestors(jnp.zeros(100), 100, "ssp").outcomes() is None
    with pytest.raises(NotFiniteError, match="100 positions and 100 particles by the scheme 'ssp'"):
        Ancestors(jnp.zeros(100), 100, "ssp").log_prob(jnp.arange(100, dtype=jnp.int32))


@pytest.mark.slow
def test_metropolis_is_biased_and_converges():
    """The error of the expected copies falls at least as fast as (1 - mean w / max w)^steps; it is not nothing."""
    weights = np.array([1.0, 5.0, 0.0, 2.0])
    errors = []
    for steps in (1, 4, 16, 64):
        copied = np.exp(metropolis_cells(log(weights), 4, steps).log_probs).sum(axis=0)
        errors.append(np.abs(copied - 4 * weights / weights.sum()).max())
        assert errors[-1] <= 4 * (1 - weights.mean() / weights.max()) ** steps
    assert errors[0] > 0.1
    assert errors[2] > 1e-5
    named = cells_of("metropolis 16", log(weights), 4)
    np.testing.assert_array_equal(metropolis_cells(log(weights), 4, 16).log_probs, named.log_probs)


@pytest.mark.slow
def test_ssp_of_any_noise_is_in_the_cells():
    """A grid of noise, evenly spaced, has the law of the cells to the width of the grid."""
    log_weights, side = log((3, 5, 2)), 60
    u = (jnp.arange(side) + 0.5) / side
    grid = jnp.stack(jnp.meshgrid(u, u, u, indexing="ij"), axis=-1).reshape(-1, 3)
    found, counts = np.unique(jax.jit(jax.vmap(lambda u: ssp(u, log_weights, 3)))(grid), axis=0, return_counts=True)
    law = listed(Ancestors(log_weights, 3, "ssp").outcomes(), 3)
    shares = dict(zip(map(tuple, found.tolist()), counts / len(grid), strict=True))
    assert distance(shares, law) < 3 / side
    independent = listed(Ancestors(log_weights, 3, "residual").outcomes(), 3)  # the mutant
    assert distance(shares, {tuple(sorted(a)): p for a, p in independent.items()}) > 3 / side


def test_ssp_rounds_a_large_population(key):
    """Floor or ceiling at every particle of 3000, in float32 and with zeros."""
    n = 3000
    weights = np.asarray(jax.random.gamma(key, 0.3, (n,), jnp.float32)) * (np.arange(n) % 3 > 0)
    u = jax.random.uniform(key, (n,), jnp.float32)
    got = jax.jit(ssp, static_argnums=2)(u, jnp.log(jnp.asarray(weights, jnp.float32)), n)
    copies, exact = np.bincount(got, minlength=n), n * weights.astype(float) / weights.sum(dtype=float)
    assert (copies >= np.floor(exact - 1e-3)).all()
    assert (copies <= np.ceil(exact + 1e-3)).all()
