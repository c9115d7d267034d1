"""`Summed` against enumeration: log densities and gradients of structures with plates, lanes, chains, branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import EnumerationSizeError, MeasureError
from ppl.inference.flat import Flat
from ppl.inference.summed import Summed
from ppl.semantics import elementwise, summed_sites
from ppl.semantics.named import Mixed

YS = [0.3, -1.2, 2.0, 0.7]


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):  # NumPyro's categorical draw promotes
        yield


def observe(name, mean, y):
    ppl.sample(name, dist.Normal(mean, 0.8), obs=y)


def parameters():
    mu = ppl.sample("mu", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    return mu, ppl.sample("w", dist.Beta(2.0, 3.0))


def weights(w):
    return jnp.stack([0.7 * w, 0.3 * w, 1 - w])


def plate(ys):
    mu, w = parameters()
    with ppl.plate("n", 4):
        z = ppl.sample("z", dist.Categorical(weights(w)))
        observe("y", mu[z], ys)


def plate_of_two_labels_and_a_shared_one(ys):
    mu, w = parameters()
    top = ppl.sample("top", dist.Bernoulli(0.3))
    with ppl.plate("n", 4):
        z = ppl.sample("z", dist.Categorical(weights(w)))
        b = ppl.sample("b", dist.Bernoulli(jnp.where(z == 1, 0.2, w)))
        observe("y", jnp.where(b == 1, mu[z], -mu[z]) + top * w, ys)


def nested_plates(ys):
    mu, w = parameters()
    with ppl.plate("group", 2, dim=-2):
        z = ppl.sample("z", dist.Categorical(weights(w)))
        with ppl.plate("n", 2, dim=-1):
            b = ppl.sample("b", dist.Bernoulli(w))
            observe("y", mu[z] * (1 + b), ys.reshape(2, 2))


def rows_of_a_table(ys):
    mu, w = parameters()
    table = mu[:, None] * jnp.asarray([[1.0, -0.5]])
    with ppl.plate("n", 2):
        z = ppl.sample("z", dist.Categorical(weights(w)))
        ppl.sample("y", dist.Normal(jnp.take(table, z, axis=0), 0.9).to_event(1), obs=ys.reshape(2, 2))
        logits = jnp.stack([mu, mu[::-1], 2 * mu])
        ppl.sample("c", dist.Categorical(logits=logits[z]), obs=jnp.asarray([2, 0]))


def elements_that_are_mixed(ys):
    mu, w = parameters()
    z = ppl.sample("z", dist.Categorical(jnp.broadcast_to(weights(w), (3, 3))))
    observe("y", mu[z].sum() * z[0], ys[0])


def sum_of_elements(ys):
    mu, w = parameters()
    z = ppl.sample("z", dist.Categorical(jnp.broadcast_to(weights(w), (3, 3))))
    observe("y", mu[z].sum(), ys[0])


def lanes(ys):
    mu, w = parameters()
    ppl.vmap(lambda y: observe("y", mu[ppl.sample("z", dist.Categorical(weights(w)))], y))(ys)


def chain(ys):
    mu, w = parameters()
    table = jnp.stack([weights(w), jnp.asarray([0.2, 0.5, 0.3]), weights(1 - w)])

    def step(z, y):
        z = ppl.sample("z", dist.Categorical(table[z]))
        observe("y", mu[z], y)
        return z, None

    lax.scan(step, ppl.sample("start", dist.Categorical(weights(w))), ys)


def branch(ys):
    mu, w = parameters()
    i = ppl.sample("i", dist.Bernoulli(w))

    def yes():
        with ppl.plate("n", 4):
            observe("y", mu[ppl.sample("z", dist.Categorical(weights(w)))], ys)
        return mu[0]

    observe("end", lax.cond(i == 1, yes, lambda: 2 * mu[1]), ys[1])


MODELS = [
    plate,
    plate_of_two_labels_and_a_shared_one,
    nested_plates,
    rows_of_a_table,
    elements_that_are_mixed,
    lanes,
    chain,
    branch,
]


def program_of(function):
    return ppl.model(lambda ys: function(ys))(jnp.asarray(YS))


def brute(program, summed):
    """Log density of the vector by enumeration of all finite choices."""

    def density(vector):
        choices = summed.choices(vector)
        jacobian = jnp.log(choices["w"]) + jnp.log1p(-choices["w"])
        return program.condition(choices).enumerate().log_mass + jacobian

    return density


@pytest.mark.parametrize("function", MODELS, ids=lambda f: f.__name__)
def test_density_and_gradient_equal_enumeration(function):
    program = program_of(function)
    summed = Summed(program)
    vector = jnp.asarray([0.4, -1.1, 0.9, 0.35])
    np.testing.assert_allclose(summed.vector(summed.choices(vector)), vector, atol=1e-12)
    value, gradient = jax.jit(jax.value_and_grad(summed.log_density))(vector)
    density, eps = brute(program, summed), 1e-3 * np.eye(4)
    np.testing.assert_allclose(value, density(vector), rtol=1e-10)
    slope = [
        (8 * (density(vector + d) - density(vector - d)) - density(vector + 2 * d) + density(vector - 2 * d)) / 12e-3
        for d in eps
    ]
    np.testing.assert_allclose(gradient, slope, atol=1e-7)


def test_without_finite_choices_it_is_the_flat_density():
    @ppl.model
    def scale(y):
        s = ppl.sample("s", dist.HalfNormal(2.0))
        ppl.sample("y", dist.Normal(0.0, s), obs=y)

    program, vector = scale(1.3), jnp.asarray([0.4])
    np.testing.assert_allclose(Summed(program).log_density(vector), Flat(program).log_density(vector), rtol=1e-12)


def test_a_plate_costs_its_outcomes_an_element():
    program = ppl.model(lambda: _long_plate())()
    summed = Summed(program)
    assert summed.dim == 3
    assert summed.note == "Summed out: z (5,000 lanes of 3 outcomes)."
    closed = jax.make_jaxpr(summed.log_density)(jnp.zeros(3))
    assert max(v.aval.size for e in closed.jaxpr.eqns for v in e.outvars) <= 3 * 5000


def _long_plate():
    mu = ppl.sample("mu", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with ppl.plate("n", 5000):
        z = ppl.sample("z", dist.Categorical(jnp.asarray([0.2, 0.3, 0.5])))
        observe("y", mu[z], jnp.linspace(-1.0, 1.0, 5000))


def test_the_note_tells_of_chains():
    assert Summed(program_of(chain)).note == "Summed out: start (3 outcomes), z (chain of 4 steps, 3 outcomes)."


# --- errors ----------------------------------------------------------------------------------------------------------


def count(ys):
    n = ppl.sample("n", dist.Poisson(ppl.sample("rate", dist.HalfNormal(1.0))))
    observe("y", n * 1.0, ys[0])


def moving_support(ys):
    z = ppl.sample("z", dist.Bernoulli(0.3))
    observe("y", ppl.sample("x", dist.Uniform(0.0, 1.0 + z)), ys[0])


def mixed(ys):
    z = ppl.sample("z", dist.Bernoulli(jnp.full(20, 0.3)))
    observe("y", ppl.sample("x", dist.Normal(0.0, 1.0)) * z.sum(), ys[0])


def inside_a_branch(ys):
    z = ppl.sample("z", dist.Bernoulli(0.3))
    observe("y", lax.cond(z == 1, lambda: ppl.sample("x", dist.Normal(0.0, 1.0)), lambda: 0.0), ys[0])


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        (count, MeasureError, r"'n' \(test_summed.py.*Poisson\)(.|\n)*ppl.inference.on"),
        (moving_support, MeasureError, r"support of the choice 'x' at test_summed.py(.|\n)*'z'"),
        (mixed, EnumerationSizeError, r"'z' at test_summed.py.*2\^20(.|\n)*ppl.vmap"),
        (inside_a_branch, MeasureError, r"'x' \(test_summed.py.*inside a branch"),
    ],
)
def test_what_cannot_be_summed_is_said(function, error, match):
    with pytest.raises(error, match=match):
        _ = Summed(program_of(function)).dim


# --- mutants ---------------------------------------------------------------------------------------------------------


def sums_are_elementwise(monkeypatch):
    rules = {**elementwise._RULES, "reduce_sum": lambda equation, operands, variables: {}}
    monkeypatch.setattr(elementwise, "_RULES", rules)


def jacobian_dropped(monkeypatch):
    pushed = summed_sites._pushed
    monkeypatch.setattr(
        summed_sites,
        "_pushed",
        lambda *args: [r if i < 1 else r._replace(array=0 * r.array) for i, r in enumerate(pushed(*args))],
    )


@pytest.mark.parametrize(("mutate", "function"), [(sums_are_elementwise, sum_of_elements), (jacobian_dropped, plate)])
def test_mutants_die(mutate, function, monkeypatch):
    summed = Summed(program_of(function))
    vector = jnp.asarray([0.4, -1.1, 0.9, 0.35])
    expected = brute(summed.program, summed)(vector)
    mutate(monkeypatch)
    try:
        found = summed.log_density(vector)
    except Mixed:
        return
    assert abs(found - expected) > 1e-3
