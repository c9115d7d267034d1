"""Reparameterised programs have the density that the change of variables asks for, family by family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, ReparameterizationError
from ppl.semantics.reparam import LOCATION_SCALE, Noncentered, Split, noncentered, reparam, transformed

TRIL = jnp.array([[1.0, 0.0], [0.5, 2.0]])
LOC = jnp.array([0.5, -1.5])

FAMILIES = {
    "normal": lambda s: dist.Normal(1.5, s),
    "student": lambda s: dist.StudentT(4.0, 1.5, s),
    "cauchy": lambda s: dist.Cauchy(-1.0, s),
    "laplace": lambda s: dist.Laplace(1.5, s),
    "logistic": lambda s: dist.Logistic(1.5, s),
    "gumbel": lambda s: dist.Gumbel(1.5, s),
    "lognormal": lambda s: dist.LogNormal(0.5, s),
    "multivariate": lambda s: dist.MultivariateNormal(LOC * s, scale_tril=TRIL * s),
    "expanded": lambda s: dist.Normal(LOC * s, s).expand((3, 2)),
    "independent": lambda s: dist.StudentT(3.0, LOC, s * jnp.array([1.0, 2.0])).to_event(1),
    "expanded multivariate": lambda s: dist.MultivariateNormal(LOC, scale_tril=TRIL * s).expand((3,)),
    "transformed": lambda s: dist.TransformedDistribution(dist.Normal(0.3, s), dist.transforms.SigmoidTransform()),
}


@pytest.fixture(autouse=True)
def _numpyro_promotes_ranks():
    """NumPyro's expanded distributions promote ranks in their own `sample` and `log_prob`."""
    with jax.numpy_rank_promotion("allow"):
        yield


@ppl.model
def hierarchy(make):
    scale = ppl.sample("scale", dist.HalfNormal(2.0))
    theta = ppl.sample("theta", make(scale))
    ppl.sample("y", dist.Normal(jnp.sum(theta), 0.7), obs=jnp.array(1.25))
    return theta


@jax.jit
def change_of_variables_gap(original, changed):
    """log p_changed(base) - log p(theta(base)) - log |d theta / d base|, at one base."""
    shape = changed.sites["theta/base"].shape
    base = 0.3 + 0.6 * jnp.sin(1.0 + jnp.arange(np.prod(shape, dtype=int)).reshape(shape))
    scale = jnp.array(1.3)

    def pushed(base):
        return jnp.ravel(changed.replay({"scale": scale, "theta/base": base}).deterministic["theta"])

    jacobian = jax.jacfwd(pushed)(base).reshape(-1, base.size)
    theta = pushed(base).reshape(original.sites["theta"].shape)
    there = original.log_density({"scale": scale, "theta": theta})
    return changed.log_density({"scale": scale, "theta/base": base}) - there - jnp.linalg.slogdet(jacobian)[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_noncentered_changes_variables_exactly(name):
    original = hierarchy(FAMILIES[name])
    gap = change_of_variables_gap(original, reparam(original, {"theta": noncentered()}))
    np.testing.assert_allclose(gap, 0.0, atol=5e-5)


@pytest.mark.parametrize("name", ["normal", "student", "gumbel", "lognormal", "expanded"])
def test_partial_centering_changes_variables_exactly(name):
    original = hierarchy(FAMILIES[name])
    gap = change_of_variables_gap(original, reparam(original, {"theta": noncentered(0.3)}))
    np.testing.assert_allclose(gap, 0.0, atol=5e-5)


@pytest.mark.parametrize("name", ["lognormal", "transformed"])
def test_transformed_changes_variables_exactly(name):
    original = hierarchy(FAMILIES[name])
    gap = change_of_variables_gap(original, reparam(original, {"theta": transformed()}))
    np.testing.assert_allclose(gap, 0.0, atol=5e-5)


@dataclasses.dataclass(frozen=True)
class DroppedScale(Noncentered):
    """A mutant: the base is standard, but its draws are only shifted."""

    def split(self, distribution):
        found = Noncentered.split(self, distribution)
        return Split(found.base, lambda value: value + distribution.loc)


def test_a_dropped_scale_is_killed():
    original = hierarchy(FAMILIES["normal"])
    assert abs(change_of_variables_gap(original, reparam(original, {"theta": DroppedScale()}))) > 1e-2


def test_the_base_is_standard():
    program = reparam(hierarchy(FAMILIES["student"]), {"theta": noncentered()})
    terms = program.terms({"scale": jnp.array(0.3), "theta/base": jnp.array(1.75)})
    np.testing.assert_allclose(terms.prior["theta/base"], dist.StudentT(4.0, 0.0, 1.0).log_prob(1.75), rtol=1e-6)


def test_every_family_of_the_table_is_tested():
    made = {type(make(1.0)) for make in FAMILIES.values()}
    assert set(LOCATION_SCALE) <= made | {dist.Normal}


@ppl.model
def controlled(flag):
    scale = ppl.sample("scale", dist.HalfNormal(2.0))

    def step(x, _):
        x = ppl.sample("walk", dist.Normal(x, scale))
        return x, x

    _, path = lax.scan(step, 0.5, None, length=3)
    lanes = ppl.vmap(lambda mu: ppl.sample("lane", dist.Normal(mu, scale)))(path)
    taken = lax.cond(
        flag > 0.0,
        lambda: ppl.sample("inside", dist.Normal(1.0, scale)),
        lambda: jnp.array(0.25),
    )
    return path, lanes, taken


def test_control_flow_keeps_the_law():
    original = controlled(jnp.array(1.0))
    names = ("walk", "lane", "inside")
    changed = reparam(original, {name: noncentered() for name in names})
    trace = changed.simulate(jax.random.key(1))
    assert {a: v.shape for a, v in trace.choices.items()} == {
        "scale": (), "walk/base": (3,), "lane/base": (3,), "inside/base": ()
    }  # fmt: skip
    there = {"scale": trace.choices["scale"], **trace.deterministic}
    expected = original.log_density(there) + 7 * jnp.log(trace.choices["scale"])
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)
    np.testing.assert_array_equal(trace.value[0], trace.deterministic["walk"])
    assert changed.sites["inside/base"].masked


def test_plates_keep_their_dimensions():
    @ppl.model
    def schools():
        with ppl.plate("school", 4):
            ppl.sample("theta", dist.MultivariateNormal(LOC, scale_tril=TRIL))

    sites = reparam(schools(), {"theta": noncentered()}).sites
    assert sites["theta/base"].dims == sites["theta"].dims == ("school", None)
    assert sites["theta"].kind == "deterministic"


def test_a_subsampled_plate_scales_the_base():
    @ppl.model
    def local():
        with ppl.plate("item", 6, subsample_size=2):
            ppl.sample("theta", dist.Normal(1.0, 2.0))

    program = reparam(local(), {"theta": noncentered()})
    choices = program.simulate(jax.random.key(0)).choices
    base = choices["theta/base"]
    np.testing.assert_allclose(
        program.log_density(choices), 3.0 * jnp.sum(dist.Normal(0.0, 1.0).log_prob(base)), rtol=1e-5
    )


def test_nested_programs_are_reached_by_their_address():
    @ppl.model
    def outer():
        return ppl.sample("sub", hierarchy(FAMILIES["normal"]))

    program = reparam(outer(), {"sub/theta": noncentered()})
    assert "sub/theta/base" in program.simulate(jax.random.key(0)).choices


def test_the_same_rules_give_the_same_program():
    one = reparam(hierarchy(FAMILIES["normal"]), {"theta": noncentered()})
    two = reparam(hierarchy(FAMILIES["normal"]), {"theta": noncentered(0.0)})
    assert jax.tree.structure(one) == jax.tree.structure(two)


def test_errors_say_where_and_what():
    program = hierarchy(FAMILIES["normal"])
    with pytest.raises(AddressError, match=r"'thet'.*Did you mean 'theta' \(test_reparam.py:\d+\)"):
        reparam(program, {"thet": noncentered()})
    with pytest.raises(ReparameterizationError, match=r"'y', which is observed at test_reparam.py:\d+"):
        reparam(program, {"y": noncentered()})
    with pytest.raises(ReparameterizationError, match=r"'scale' at test_reparam.py:\d+, drawn from HalfNormal"):
        reparam(program, {"scale": noncentered()})
    with pytest.raises(ReparameterizationError, match="Expected: a TransformedDistribution"):
        reparam(program, {"theta": transformed()})
    with pytest.raises(ReparameterizationError, match=r"Expected: a number in \[0, 1\]"):
        noncentered(1.5)
