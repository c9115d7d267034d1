"""Two-sample tests: uniform p-values where the laws agree, and mutants that they must kill at a rate of 1e-6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.diagnostics.columns import columns_of
from ppl.diagnostics.two_sample import mmd_test, two_sample
from ppl.errors import LawViolation, NaNError, ShapeError

N = 1500


def joint(rng, size=N, rho=0.6):
    x = rng.gamma(2.0, size=size)
    y = rho * (x - 2.0) + rng.normal(size=(3, size))
    return {"x": x, "y": y.T, "n": rng.poisson(2.0, size)}


def test_samples_of_one_law_pass_at_any_rate_worth_naming(rng):
    assert two_sample(joint(rng), joint(rng, 400)).check().p_value > 1e-4


def test_p_values_are_not_too_small_under_the_null():
    # 300 repetitions of 8 rows each: a Bonferroni p-value below 0.1 has probability at most 0.1, so more than 63 of
    # 300 has probability below 1e-9.
    rng = np.random.default_rng(1)
    small = [
        two_sample({"x": rng.normal(size=(60, 2))}, {"x": rng.normal(size=(60, 2))}).p_value < 0.1 for _ in range(300)
    ]
    assert sum(small) <= 63


@pytest.mark.parametrize(
    ("mutant", "row"),
    [
        (lambda d: d | {"x": d["x"] + 0.6}, ("x", "place")),
        (lambda d: d | {"y": d["y"] * np.array([1.0, 1.0, 1.7])}, ("y[2]", "spread")),
        (lambda d: d | {"x": d["x"][::-1]}, ("x - y[", "dependence")),
        (lambda d: d | {"n": np.where(d["n"] == 0, 1, d["n"])}, ("n", "")),
    ],
    ids=["shifted", "wider", "independent", "no zeros"],
)
def test_mutants_are_killed_by_the_row_that_names_them(mutant, row, rng):
    found = two_sample(joint(rng), mutant(joint(rng)))
    assert found.rows[0].quantity.startswith(row[0])
    assert found.rows[0].test.startswith(row[1])
    with pytest.raises(LawViolation, match=rf"tests of 1500 against 1500 draws: p = .*\n  {row[0][0]}"):
        found.check(1e-6)


def test_a_kernel_test_sees_a_ring(rng):
    angles = rng.uniform(0, 2 * np.pi, size=(4, 256))
    ring, other = (np.stack([np.cos(t), np.sin(t)], axis=1) for t in angles[:2])
    square = np.stack([np.cos(angles[2]), np.sin(angles[3])], axis=1)
    # None of 2**14 permutations comes near; the million that a rate of 1e-6 needs would take 20 seconds.
    assert mmd_test(ring, square, permutations=2**14)[1] == 1 / (2**14 + 1)
    assert mmd_test(ring, other, permutations=2**21)[1] > 1e-4
    assert two_sample({"r": ring}, {"r": other}, permutations=100).p_value > 1e-4


def test_permutation_p_values_are_uniform_under_the_null(rng):
    pool = rng.normal(size=(150, 40, 2))
    p_values = [mmd_test(x[:20], x[20:], permutations=300, seed=i)[1] for i, x in enumerate(pool)]
    # Binomial(150, 0.2) exceeds 58 or falls below 9 with probability below 1e-6.
    assert 9 <= sum(p <= 0.2 for p in p_values) <= 58


def test_jax_arrays_booleans_and_constants_are_taken(key):
    one, other = ({"b": jax.random.bernoulli(k, 0.5, (50,)), "c": jnp.ones(50)} for k in jax.random.split(key))
    assert two_sample(one, other).p_value > 1e-6


def test_what_cannot_be_compared_is_named():
    with pytest.raises(ShapeError, match=r"only one of them has x\[1\]"):
        two_sample({"x": np.zeros((5, 1))}, {"x": np.zeros((5, 2))})
    with pytest.raises(ShapeError, match="at least 2 independent draws"):
        two_sample({"x": np.zeros(1)}, {"x": np.zeros(5)})
    with pytest.raises(NaNError, match="1 of 3 draws of 'x'"):
        two_sample({"x": np.array([0.0, np.nan, 1.0])}, {"x": np.zeros(3)})
    with pytest.raises(ShapeError, match="one leading axis"):
        columns_of({"x": np.zeros(3), "y": np.zeros(4)})
