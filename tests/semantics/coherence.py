"""What every program must satisfy, whatever its control flow: one density, told in four ways. Oracles in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def coherent(program, key):
    """Simulate; the trace's density, the scored density, the sum of terms and the full weight must be one number."""
    trace = program.simulate(key)
    scored = program.log_density(trace.choices)
    terms = sum(jnp.sum(term) for group in trace.terms for term in group.values())
    given = program.generate(key, trace.choices)
    for number in (trace.log_density, terms, given.log_density, given.log_weight):
        np.testing.assert_allclose(number, scored, rtol=1e-5, atol=1e-5)
    assert np.isfinite(scored)
    assert {a: v.shape for a, v in trace.choices.items()} == {
        a: info.shape for a, info in program.sites.items() if info.kind == "latent"
    }
    return trace


def normal(x, loc, scale):
    """The log density of a normal, summed, in float64."""
    z = (np.asarray(x, np.float64) - np.asarray(loc, np.float64)) / scale
    return float(np.sum(-0.5 * z**2 - np.log(scale) - 0.5 * math.log(2 * math.pi)))


def same_choices(left, right):
    """Whether the choices that two traces share are equal bit for bit; at least one must be shared."""
    shared = left.choices.keys() & right.choices.keys()
    return bool(shared) and all(np.array_equal(left.choices[a], right.choices[a]) for a in shared)


def flat_leaves(tree):
    """The leaves of a pytree as NumPy arrays."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
