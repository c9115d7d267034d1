"""Conjugate conditionals against closed forms and against the density itself; refusals; mutants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import BranchError, MeasureError
from ppl.inference.conjugate import conditional, conjugate, is_conjugate, why_not
from ppl.inference.kernels import State
from ppl.semantics.slicing import block


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        yield


Y = np.array([0.5, -1.25, 2.0, 0.75])
COUNTS = np.array([3, 0, 2, 5])
GROUP = np.array([2, 0, 2, 1])


@ppl.model
def normal(y):
    """One mean in two sites: plain and through 2 x + 1, with a data-dependent spread and a hierarchical child."""
    x = ppl.sample("x", dist.Normal(0.5, 2.0))
    ppl.sample("y", dist.Normal(x, jnp.array([1.0, 0.5, 2.0, 1.5])), obs=y)
    ppl.sample("v", dist.Normal(2.0 * x + 1.0, 3.0), obs=1.75)
    ppl.sample("child", dist.Normal(x, 0.25))


def test_a_normal_mean_has_the_closed_form():
    law = conditional(normal(Y), "x", {"child": jnp.array(0.25)})
    scales = np.array([1.0, 0.5, 2.0, 1.5])
    precision = 1 / 4 + np.sum(1 / scales**2) + 4 / 9 + 16
    linear = 0.5 / 4 + np.sum(Y / scales**2) + 2 * (1.75 - 1) / 9 + 0.25 * 16
    assert float(law.loc) == pytest.approx(linear / precision, abs=1e-12)
    assert float(law.scale) == pytest.approx(precision**-0.5, abs=1e-12)


@ppl.model
def groups(y, group):
    """Means by group, read at fixed places; a plate of means around a common one; means in lanes."""
    mu = ppl.sample("mu", dist.Normal(jnp.array([0.0, 1.0, -1.0]), 2.0).to_event(1))
    ppl.sample("y", dist.Normal(mu[group], 0.5), obs=y)
    centre = ppl.sample("centre", dist.Normal(0.25, 1.5))
    with ppl.plate("n", 4):
        theta = ppl.sample("theta", dist.Normal(centre, 0.75))
        ppl.sample("w", dist.Normal(theta, 2.0), obs=y)

    def lane(y):
        a = ppl.sample("a", dist.Normal(centre, 1.0))
        ppl.sample("b", dist.Normal(3.0 * a - y, 2.0), obs=y)

    ppl.vmap(lane)(y)


@ppl.model
def rates(counts, exposure):
    rate = ppl.sample("rate", dist.Gamma(2.0, 0.5))
    with ppl.plate("n", 4):
        each = ppl.sample("each", dist.Exponential(1.5))
        ppl.sample("c", dist.Poisson(each * exposure), obs=counts)
    ppl.sample("counts", dist.Poisson(rate * exposure), obs=counts)
    ppl.sample("wait", dist.Exponential(rate), obs=0.75)
    ppl.sample("gamma", dist.Gamma(3.0, 2.0 * rate), obs=0.5)


@ppl.model
def coins(flips, counts):
    p = ppl.sample("p", dist.Beta(2.0, 3.0))
    ppl.sample("flips", dist.Bernoulli(p), obs=flips)
    ppl.sample("counts", dist.Binomial(6, p), obs=counts)
    with ppl.plate("n", 4):
        q = ppl.sample("q", dist.Beta(1.5, 0.5))
        ppl.sample("of_q", dist.Bernoulli(q), obs=flips)


@ppl.model
def shares(labels, table):
    w = ppl.sample("w", dist.Dirichlet(jnp.array([1.0, 2.0, 0.5])))
    ppl.sample("labels", dist.Categorical(w), obs=labels)
    ppl.sample("table", dist.Multinomial(7, w), obs=table)
    rows = ppl.sample("rows", dist.Dirichlet(jnp.array([[1.0, 2.0, 0.5], [0.5, 1.5, 3.0]])).to_event(1))
    ppl.sample("read", dist.Categorical(rows[jnp.array([1, 0, 1, 1])]), obs=labels)


PROGRAMS = {
    "normal": lambda: normal(Y),
    "groups": lambda: groups(Y, GROUP),
    "rates": lambda: rates(COUNTS, np.array([1.0, 0.5, 2.0, 3.0])),
    "coins": lambda: coins(np.array([1, 0, 0, 1]), COUNTS),
    "shares": lambda: shares(GROUP, np.array([2, 4, 1])),
}
CASES = [
    *(("normal", a) for a in ("x",)),
    *(("groups", a) for a in ("mu", "centre", "theta", "a")),
    *(("rates", a) for a in ("rate", "each")),
    *(("coins", a) for a in ("p", "q")),
    *(("shares", a) for a in ("w", "rows")),
]


@pytest.mark.parametrize(("name", "address"), CASES)
@pytest.mark.slow
def test_the_conditional_is_the_density_up_to_a_constant(name, address):
    """Exact: at any two values the log densities differ alike. A conditional without a child would not."""
    program = PROGRAMS[name]()
    one, other = (program.simulate(seed).choices for seed in (1, 2))
    law = conditional(program, address, one)
    sliced = block(program, address, one)
    assert law.sample(jax.random.key(0)).shape == program.sites[address].shape
    wanted = sliced.log_density({address: one[address]}) - sliced.log_density({address: other[address]})
    found = jnp.sum(law.log_prob(one[address])) - jnp.sum(law.log_prob(other[address]))
    assert float(found) == pytest.approx(float(wanted), abs=1e-10)
    assert len([i for i in sliced.sites.values() if i.kind != "latent"]) >= 1


def test_counts_and_sums_are_the_statistics():
    program = PROGRAMS["coins"]()
    law = conditional(program, "p", {})
    assert (float(law.concentration1), float(law.concentration0)) == (2 + 2 + 10, 3 + 2 + 14)
    law = conditional(PROGRAMS["shares"](), "w", {})
    assert law.concentration.tolist() == [1 + 1 + 2, 2 + 1 + 4, 0.5 + 2 + 1]


def test_the_kernel_draws_from_the_conditionals_in_turn():
    program = PROGRAMS["groups"]()
    kernel = conjugate()(program)(State(dict(program.simulate(0).choices), {}))
    assert [a for a, i in kernel.sites.items() if i.kind == "latent"] == [
        "draw/mu",
        "draw/centre",
        "draw/theta",
        "draw/a",
    ]
    assert kernel.simulate(1).value.choices["theta"].shape == (4,)


# --- what is not conjugate -------------------------------------------------------------------------------------------


@ppl.model
def strange(y):
    a = ppl.sample("a", dist.Normal(0.0, 1.0))
    s = ppl.sample("s", dist.LogNormal(0.0, 1.0))
    g = ppl.sample("g", dist.Gamma(2.0, 1.0))
    t = ppl.sample("t", dist.Normal(0.0, 1.0))
    p = ppl.sample("p", dist.Beta(1.0, 2.0))
    with ppl.plate("n", 2):
        w = ppl.sample("w", dist.Normal(0.0, 1.0))
    ppl.sample("y", dist.Normal(jnp.sin(a), s), obs=y)
    ppl.sample("z", dist.Normal(0.0, g), obs=y)
    ppl.sample("h", dist.StudentT(4.0, t, 1.0), obs=y)
    ppl.sample("c", dist.Bernoulli(p**2), obs=1)
    ppl.sample("v", dist.Normal(w[0] - w[1], 1.0), obs=y)
    jax.lax.cond(a > 0, lambda: ppl.sample("u", dist.Normal(0.0, 1.0)), lambda: 0.0)


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("s", "'s'.*LogNormal.*is in no conjugate family"),
        ("g", "divided by a function of the choice"),
        ("t", r"'t'.*is not recognised: .*\n.*'h' \(StudentT"),
        ("p", "logarithm is taken of something else"),
        ("w", "joins different elements|product of|acts on a sum"),
    ],
)
def test_others_are_refused_by_name(address, match):
    program = strange(jnp.array(0.5))
    with pytest.raises(MeasureError, match=match):
        conditional(program, address, dict(program.simulate(0).choices))
    assert not is_conjugate(program, address)


def test_choices_that_decide_on_others_are_refused():
    with pytest.raises(BranchError, match="decides whether"):
        conditional(strange(jnp.array(0.5)), "a", {})
    assert not is_conjugate(strange(jnp.array(0.5)), "a")
    assert "branch" in str(why_not(strange(jnp.array(0.5)), "u"))
