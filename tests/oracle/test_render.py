"""`ppl` against the Fraction oracle on random programs: densities, traces, and exact enumeration."""

import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.fractions_enumerator import paths
from tests.oracle.generate import SKELETONS, fillings
from tests.oracle.render import choice_arrays, path_of, to_program

NAMES = list(SKELETONS)


@pytest.mark.parametrize("name", NAMES)
def test_density_value_and_masks_of_every_path(name):
    """Law 30 and 38: each path of positive prior has the oracle's mass, value and absent choices."""

    @given(fillings(SKELETONS[name]))
    def check(program):
        rendered = to_program(program)
        for path in paths(program):
            choices = choice_arrays(program, path.choices)
            trace = rendered.replay(choices)
            assert math.exp(trace.log_density) == pytest.approx(float(path.mass), abs=1e-10)
            assert math.exp(rendered.log_density(choices)) == pytest.approx(float(path.mass), abs=1e-10)
            assert path_of(trace.choices, trace.masks, trace.value) == (path.choices, path.value)

    with jax.enable_x64(True):
        check()


@pytest.mark.parametrize("name", NAMES)
def test_simulated_traces_are_paths(name):
    """A trace is a path of the oracle; its density and its weight are the path's."""

    @given(fillings(SKELETONS[name]), st.integers(0, 2**31 - 1))
    def check(program, seed):
        trace = to_program(program).simulate(jax.random.key(seed))
        by_key = {(path.choices, path.value): path for path in paths(program)}
        path = by_key[path_of(trace.choices, trace.masks, trace.value)]
        assert math.exp(trace.log_weight) == pytest.approx(float(path.weight), abs=1e-10)
        assert math.exp(trace.log_density) == pytest.approx(float(path.mass), abs=1e-10)

    with jax.enable_x64(True):
        check()
