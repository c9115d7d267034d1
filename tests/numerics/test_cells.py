"""Law 16 through cells, without Monte Carlo error, and the cells against the samplers that they describe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppl.numerics.cells import CELLS, JointCells
from ppl.numerics.resampling import RESAMPLERS

J, N = 4, 6
SCHEMES = sorted(RESAMPLERS)
DEPENDENT = {"ssp"}  # joint cells, of several numbers
# Shapes are fixed and values vary: one compilation a scheme.
ENUMERATE = {name: jax.jit(cells, static_argnums=1) for name, cells in CELLS.items()}
SAMPLE = {name: jax.jit(resampler.ancestors, static_argnums=2) for name, resampler in RESAMPLERS.items()}

numbers = st.one_of(st.just(0.0), st.integers(1, 12).map(float), st.floats(1e-6, 50.0))
populations = st.lists(numbers, min_size=J, max_size=J).filter(any).map(np.array)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def expected_copies(cells):
    copies = jax.nn.one_hot(cells.ancestors, J, dtype=jnp.float64)
    probabilities = jnp.exp(cells.log_probs)[..., None]
    if isinstance(cells, JointCells):
        return (copies.sum(axis=1) * probabilities).sum(axis=0)
    return (copies * probabilities).sum(axis=(0, 1))


@pytest.mark.parametrize("name", SCHEMES)
@given(weights=populations)
def test_expected_copies_are_n_times_the_weight(name, weights):
    cells = ENUMERATE[name](jnp.log(weights), N)
    np.testing.assert_allclose(jnp.exp(cells.log_probs).sum(axis=-1), 1.0, atol=1e-12)
    np.testing.assert_allclose(expected_copies(cells), N * weights / weights.sum(), atol=1e-10)


@pytest.mark.parametrize("name", ["ssp", "systematic"])
@given(weights=populations)
def test_copies_are_the_floor_or_the_ceiling(name, weights):
    cells = ENUMERATE[name](jnp.log(weights), N)
    copies = np.asarray(jax.nn.one_hot(cells.ancestors, J).sum(axis=1))
    possible = copies[np.asarray(cells.log_probs) > -np.inf]
    exact = N * weights / weights.sum()
    assert (possible >= np.floor(exact - 1e-9)).all()
    assert (possible <= np.ceil(exact + 1e-9)).all()


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in DEPENDENT | {"killing"}])
@given(weights=populations, u=st.floats(0, 1, exclude_max=True))
def test_the_cell_of_some_noise_has_the_sampled_ancestors(name, weights, u):
    log_weights = jnp.log(weights)
    ancestors, log_probs = ENUMERATE[name](log_weights, N)
    sampled = SAMPLE[name](jnp.full(RESAMPLERS[name].noise_shape(N), u), log_weights, N)
    ends = jnp.cumsum(jnp.exp(log_probs), axis=-1)
    if np.abs(ends - u).min() < 1e-9:
        return  # on an edge, where rounding decides
    cell = jnp.argmax(ends > u, axis=-1)
    expected = ancestors[cell] if name == "systematic" else ancestors[jnp.arange(N), cell]
    np.testing.assert_array_equal(sampled, expected)


@pytest.mark.parametrize("name", SCHEMES)
def test_no_mass_leaves_the_population_alone_for_certain(name):
    cells = ENUMERATE[name](jnp.full(J, -jnp.inf), N)
    assert not jnp.isnan(cells.log_probs).any()
    np.testing.assert_allclose(jnp.exp(cells.log_probs).sum(axis=-1), 1.0, atol=1e-12)
    possible = np.exp(cells.log_probs) > 0
    identity = np.arange(N) % J
    for index in np.argwhere(possible):
        ancestors = cells.ancestors[tuple(index)]
        np.testing.assert_array_equal(ancestors, identity if ancestors.ndim else identity[index[0]])


@pytest.mark.parametrize("name", SCHEMES)
def test_one_hot_weights_have_one_outcome(name):
    cells = ENUMERATE[name](jnp.array([-jnp.inf, -jnp.inf, 3.0, -jnp.inf]), N)
    np.testing.assert_allclose(expected_copies(cells), [0, 0, N, 0], atol=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_float32_probabilities_sum_to_one(name):
    cells = ENUMERATE[name](jnp.asarray([0.1, -2.0, 1.3, 0.4], jnp.float32), N)
    assert cells.log_probs.dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(cells.log_probs).sum(axis=-1), 1.0, atol=1e-6)


def test_law_16_kills_resampling_without_weights():
    weights = np.array([1.0, 2.0, 0.0, 5.0])
    mutant = ENUMERATE["systematic"](jnp.zeros(J), N)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(expected_copies(mutant), N * weights / weights.sum(), atol=1e-10)
