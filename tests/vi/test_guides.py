"""Automatic guides: exact densities on the supports, closed-form optima, and mutants of the density laws."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import ConvergenceError, MeasureError
from ppl.vi.guides import spline
from ppl.vi.guides.joint import Pushed
from ppl.vi.guides.latents import Latents

MAKERS = {
    "mean_field": vi.guides.mean_field,
    "full_rank": vi.guides.full_rank,
    "low_rank": lambda program: vi.guides.low_rank(program, 2),
    "flow": lambda program: vi.guides.flow(program, layers=2, bins=3, hidden=4),
}


@ppl.model
def supports(y):
    """A support that depends on an earlier choice, a simplex, a loop, a finite choice."""
    scale = ppl.sample("scale", dist.HalfNormal(1.0))
    ppl.sample("below", dist.Uniform(0.0, scale))
    ppl.sample("shares", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    high = ppl.sample("high", dist.Bernoulli(0.3))

    def step(state, y):
        state = ppl.sample("state", dist.Normal(0.9 * state, scale))
        ppl.sample("y", dist.Normal(state + high, 1.0), obs=y)
        return state, None

    jax.lax.scan(step, 0.0, y)


@pytest.fixture(scope="module", autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _program():
    return supports(jnp.array([1.0, 2.0]))


def _scattered(params):
    """Parameters that are zero nowhere."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


# --- the density is exact ---------------------------------------------------------------------------------------------


def _density_gap(make, change=lambda pushed: pushed):
    """The density of a draw against that of its law in R^n and a Jacobian by autodiff, and against `log_prob`."""
    program = _program()
    guide = make(program)
    pushed = change(guide.pushed(_scattered(guide.init(0)), {"high": jnp.array(1)}))
    noise = jax.random.normal(jax.random.key(1), (pushed.law.noise,))

    @jax.jit
    def both(noise):
        choices, log_q = pushed.drawn(noise)
        vector, _ = pushed.law.drawn(noise)

        def coordinates(vector):
            x = pushed.latents.push(vector, pushed.finite)[0]
            return jnp.concatenate([x["scale"][None], x["below"][None], x["shares"][:-1], x["state"]])

        # The density of a simplex is with respect to all but its last share.
        log_det = jnp.linalg.slogdet(jax.jacfwd(coordinates)(vector))[1]
        return log_q, pushed.law.log_prob(vector) - log_det, pushed.log_prob(choices)

    drawn, naive, scored = both(noise)
    return max(abs(float(drawn - naive)), abs(float(drawn - scored)))


@pytest.mark.parametrize("name", MAKERS)
def test_the_density_is_the_change_of_variables(name):
    assert _density_gap(MAKERS[name]) < 1e-9


class _NoJacobian(Pushed):
    def drawn(self, noise):
        vector, log_q = self.law.drawn(noise)
        return self.latents.push(vector, self.finite)[0], log_q


class _TwiceJacobian(Pushed):
    def drawn(self, noise):
        choices, log_q = super().drawn(noise)
        return choices, log_q - self.latents.pull(choices, self.finite)[1]


@pytest.mark.parametrize("mutant", [_NoJacobian, _TwiceJacobian])
def test_mutants_of_the_density_die(mutant):
    assert _density_gap(MAKERS["mean_field"], lambda p: mutant(p.law, p.latents, p.finite, p.sticking)) > 1e-2


def test_draws_and_simulation_have_the_programs_density():
    program = _program()
    guide = vi.guides.full_rank(program)
    params = _scattered(guide.init(0))
    choices, log_q = guide.draws(params, 4, 3)
    np.testing.assert_allclose(jax.vmap(guide(params).log_density)(choices), log_q, atol=1e-9)
    trace = guide(params).simulate(2)
    assert set(trace.choices) == {"scale", "below", "shares", "high", "state"}
    assert np.isfinite(program.log_density(trace.choices))
    outside = {**trace.choices, "below": trace.choices["scale"] + 1.0}
    assert float(guide(params).log_density(outside)) == -np.inf


def test_push_agrees_with_unconstrained():
    latents, vector = Latents(_program()), jnp.arange(6) / 5.0 - 0.4
    choices, log_det = latents.push(vector, {"high": jnp.array(0)})
    back, again = latents.pull(choices, {"high": jnp.array(0)})
    np.testing.assert_allclose(back, vector, atol=1e-12)
    there = ppl.unconstrained(_program())
    free = {**latents.free(vector), "high": jnp.array(0)}
    gap = there.program.log_density(free) - _program().log_density({**choices, "high": jnp.array(0)})
    np.testing.assert_allclose([log_det, again], [gap, gap], atol=1e-9)


def test_an_elbo_over_finite_choices_is_their_average():
    program = _program()
    guide = vi.guides.mean_field(program)
    params = _scattered(guide.init(0))
    value = float(vi.elbo(program, guide).value(5, params))
    assert np.isfinite(value)
    assert vi.strategies(guide(params))["high"].name == "enumerate"


# --- closed-form optima -----------------------------------------------------------------------------------------------

DESIGN = np.array([[1.0, 0.5], [1.0, 1.2], [0.3, 0.6]])
DATA = np.array([1.0, -0.5, 2.0])
PRECISION = np.eye(2) + DESIGN.T @ DESIGN / 0.49
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ DESIGN.T @ DATA / 0.49
SPREAD = DESIGN @ DESIGN.T + 0.49 * np.eye(3)
EVIDENCE = -0.5 * (DATA @ np.linalg.solve(SPREAD, DATA) + np.linalg.slogdet(2 * np.pi * SPREAD)[1])


@ppl.model
def regression(design, y):
    w = ppl.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    ppl.sample("y", dist.Normal(design @ w, 0.7).to_event(1), obs=y)


def _fitted(make, steps=1500, copies=8):
    program = regression(jnp.array(DESIGN), jnp.array(DATA))
    guide = make(program)
    objective, params = vi.elbo(program, guide).average(copies), guide.init(0)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    @jax.jit
    def run(params):
        def step(carry, key):
            params, state = carry
            slope = jax.grad(lambda p: -objective.surrogate(key, p))(params)
            updates, state = optimizer.update(slope, state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(7), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return program, guide, run(params)


def test_full_rank_reaches_the_posterior_and_the_evidence():
    program, guide, params = _fitted(lambda p: vi.guides.full_rank(p, sticking=True))
    law = guide.law(params)
    np.testing.assert_allclose(law.mean, MEAN, atol=1e-4)
    np.testing.assert_allclose(law.scale_tril @ law.scale_tril.T, COVARIANCE, atol=1e-4)
    objective = vi.elbo(program, guide)  # at the optimum the ELBO has no variance
    np.testing.assert_allclose([objective.value(k, params) for k in (0, 1)], EVIDENCE, atol=1e-3)
    slopes = [objective.grad(k, params) for k in (2, 3)]
    assert max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(slopes)) < 1e-2


def test_mean_field_reaches_its_optimum():
    """The optimum has the posterior's mean and the inverse of the precision's diagonal as variances."""
    _, guide, params = _fitted(vi.guides.mean_field, steps=2000, copies=200)
    law = guide.law(params)
    np.testing.assert_allclose(law.mean, MEAN, atol=0.02)
    np.testing.assert_allclose(law.sd, np.diag(PRECISION) ** -0.5, rtol=0.03)
    assert np.all(np.asarray(law.sd) < np.sqrt(np.diag(COVARIANCE)) * 0.95)


def test_sticking_changes_no_mean(key):
    """Both gradients have the same mean: z-tests of their paired difference, false alarm 1e-6 over 4 elements.

    The mutant leaves out the guide's density instead of its score term.
    """
    program = regression(jnp.array(DESIGN), jnp.array(DATA))
    plain = vi.guides.mean_field(program)
    params = {"mean": jnp.array([0.3, -0.2]), "log_sd": jnp.array([-0.5, 0.2])}
    keys = jax.random.split(key, 4000)

    def slopes(objective):
        grads = jax.jit(jax.vmap(jax.grad(lambda p, k: objective.surrogate(k, p)), (None, 0)))
        found = grads(params, keys)
        return np.concatenate([found["mean"], found["log_sd"]], axis=1)

    def scores(other):
        gap = slopes(vi.elbo(program, plain)) - slopes(other)
        return np.abs(gap.mean(axis=0)) / (gap.std(axis=0) / np.sqrt(len(gap)) + 1e-9)

    @vi.objective(maximize=True)
    def forgetful(params):
        return program.log_density(vi.simulate(plain(params))[0])

    assert scores(vi.elbo(program, replace(plain, sticking=True))).max() < 5.2
    assert scores(forgetful).max() > 5.2


def test_laplace_is_exact_on_gaussians():
    guide = vi.guides.laplace(regression(jnp.array(DESIGN), jnp.array(DATA)))
    law = guide.law(guide.fit(0))
    np.testing.assert_allclose(law.mean, MEAN, atol=1e-9)
    np.testing.assert_allclose(law.scale_tril @ law.scale_tril.T, COVARIANCE, atol=1e-9)


def test_laplace_says_that_there_is_no_mode():
    @ppl.model
    def saddle():
        x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ppl.factor("up", x**2)

    with pytest.raises(ConvergenceError, match="mostly 'x'"):
        vi.guides.laplace(saddle()).fit(0)


def test_map_is_the_mode_on_the_supports():
    @ppl.model
    def gamma():
        ppl.sample("x", dist.Gamma(3.0, 2.0))

    guide = vi.guides.map(gamma())
    objective = vi.elbo(gamma(), guide)
    for vector, slope in ((0.0, 0.0), (0.5, 2.0 - 2.0 * np.exp(0.5))):  # d/du of 2 u - 2 exp(u)
        params = {"vector": jnp.array([vector])}
        np.testing.assert_allclose(objective.grad(0, params)["vector"][0], slope, atol=1e-9)
        np.testing.assert_allclose(objective.value(0, params), gamma().log_density({"x": jnp.exp(vector)}), atol=1e-9)


# --- the flow ---------------------------------------------------------------------------------------------------------


def _mass(log_prob):
    """The integral over a square, by the midpoint rule."""
    side = np.linspace(-12.0, 12.0, 801)
    middle = (side[1:] + side[:-1]) / 2
    grid = jnp.stack(jnp.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
    return float(jnp.exp(jax.jit(jax.vmap(log_prob))(grid)).sum() * (side[1] - side[0]) ** 2)


def test_the_flows_density_integrates_to_one():
    guide = vi.guides.flow(regression(jnp.array(DESIGN), jnp.array(DATA)), layers=2, bins=4, hidden=6)
    params = _scattered(guide.init(0))
    params = {**params, "log_scale": jnp.zeros(2), "mean": jnp.zeros(2)}
    law = guide.law(params)
    assert abs(_mass(law.log_prob) - 1.0) < 2e-3
    # A mutant that forgets the layers' log determinants is far from one.
    forgets = lambda u: law.log_prob(u) + sum(_log_dets(law, u))
    assert abs(_mass(forgets) - 1.0) > 2e-2


def _log_dets(law, vector):
    bent, _ = law.affine.inverse(vector)
    for layer in reversed(law._layers):
        bent, log_det = layer.inverse(bent)
        yield log_det


def test_splines_invert_and_tell_their_slopes():
    points = spline.knots(2.0 * jax.random.normal(jax.random.key(0), (4, 3 * 5 - 1)))
    value = jnp.array([-3.0, 0.4, 4.9, 7.0])
    image, log_slope = spline.forward(points, value)
    back, again = spline.inverse(points, image)
    slopes = jnp.diagonal(jax.jacfwd(lambda v: spline.forward(points, v)[0])(value))
    np.testing.assert_allclose(back, value, atol=1e-9)
    np.testing.assert_allclose(again, log_slope, atol=1e-9)
    np.testing.assert_allclose(jnp.log(slopes), log_slope, atol=1e-9)


# --- what users write, and what is refused ----------------------------------------------------------------------------


def test_a_structured_guide_is_an_ordinary_model():
    """Local latents under `ppl.plate` in the model and `ppl.vmap` in the guide; exact posterior: no variance."""

    @ppl.model
    def model(y):
        with ppl.plate("unit", 3):
            x = ppl.sample("x", dist.Normal(0.0, 1.0))
            ppl.sample("y", dist.Normal(x, 1.0), obs=y)

    @ppl.model
    def guide(params, y):
        return ppl.vmap(lambda y: ppl.sample("x", dist.Normal(params["slope"] * y, params["sd"])))(y)

    y = jnp.array([1.0, -2.0, 0.5])
    objective = vi.elbo(model(y), guide)
    best = {"slope": jnp.array(0.5), "sd": jnp.sqrt(0.5)}
    evidence = float(np.sum(-(np.asarray(y) ** 2) / 4 - 0.5 * np.log(4 * np.pi)))
    np.testing.assert_allclose(objective.value(0, best, y), evidence, atol=1e-9)
    assert float(objective.average(100).value(0, {**best, "slope": jnp.array(0.1)}, y)) < evidence - 0.1


def test_a_marginal_program_needs_no_logits():
    @ppl.model
    def mixture(y):
        scale = ppl.sample("scale", dist.HalfNormal(1.0))
        which = ppl.sample("which", dist.Bernoulli(0.25))
        ppl.sample("y", dist.Normal(which * 2.0, scale), obs=y)

    program = mixture(1.5).marginal(["scale"])
    guide = vi.guides.mean_field(program)
    params = guide.init(0)
    assert set(params) == {"mean", "log_sd"}
    assert float(guide(params).simulate(0).choices["scale"]) > 0.0
    assert np.isfinite(vi.elbo(program, guide).value(0, params))


def test_what_has_no_place_is_refused():
    @ppl.model
    def counts():
        ppl.sample("n", dist.Poisson(3.0))

    with pytest.raises(MeasureError, match=r"'n' .*outcomes are not 0 to K - 1"):
        vi.guides.mean_field(counts()).init(0)
    with pytest.raises(MeasureError, match="'high'"):
        vi.guides.laplace(_program())
    with pytest.raises(MeasureError, match="'high'"):
        vi.guides.map(_program())
