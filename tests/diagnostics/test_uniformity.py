"""The exact law of the uniformity test, against enumeration of every outcome."""

from itertools import product

import numpy as np
import pytest

from ppl.diagnostics.uniformity import counts_below, cuts_of, uniformity_band, uniformity_p_value


@pytest.mark.parametrize(("replicates", "most"), [(5, 3), (3, 6), (9, 1)])
def test_p_values_are_those_of_enumeration(replicates, most):
    outcomes = product(range(most + 1), repeat=replicates)
    p_values = np.array([uniformity_p_value(np.array(ranks), most) for ranks in outcomes])
    for p in np.unique(p_values.round(12)):
        np.testing.assert_allclose(np.mean(p_values <= p + 1e-9), p, atol=1e-10)


@pytest.mark.parametrize("prob", [0.5, 0.9])
def test_a_band_holds_what_it_says(prob):
    band = uniformity_band(6, 3, prob)
    outcomes = [counts_below(np.array(ranks), band.cuts) for ranks in product(range(4), repeat=6)]
    inside = [((band.lower <= counts) & (counts <= band.upper)).all() for counts in outcomes]
    # The band is the largest of its kind, and outcomes are coarse: at least the probability, and not all of it.
    assert prob - 1e-10 <= np.mean(inside) < 1


def test_band_and_p_value_agree_where_there_are_more_ranks_than_cuts(rng):
    band = uniformity_band(150, 1000, 0.9)
    assert len(cuts_of(1000)) == 100
    for ranks in rng.integers(0, 1001, (30, 150)):
        counts = counts_below(ranks, band.cuts)
        outside = ((counts < band.lower) | (counts > band.upper)).any()
        assert outside == (uniformity_p_value(ranks, 1000) <= 0.1)


@pytest.mark.parametrize(
    "mutant", [lambda u: u**1.6, lambda u: 1 - u**1.6, lambda u: 0.5 + 0.6 * (u - 0.5)], ids=["low", "high", "narrow"]
)
def test_mutants_are_killed(mutant, rng):
    assert uniformity_p_value((mutant(rng.random(400)) * 100).astype(int), 99) < 1e-6
