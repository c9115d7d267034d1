"""What other systems got wrong, one test each; the comment says what went wrong there."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, DuplicateAddressError, ReparameterizationError, ShapeError
from ppl.inference.reachability import transitions
from ppl.numerics.resampling import systematic
from tests.semantics.coherence import normal

# --- densities -------------------------------------------------------------------------------------------------------


@ppl.model
def indicator(score):
    """A flip; one side scores and draws nothing, the other draws and scores nothing."""
    flip = ppl.sample("flip", dist.Bernoulli(0.5))

    def heads():
        ppl.factor("score", score)
        return 0

    def tails():
        return ppl.sample("x", dist.Categorical(jnp.array([0.2, 0.3, 0.5]))).astype(int)

    return lax.cond(flip == 1, heads, tails)


def test_an_indicator_of_branches_that_score_differently():
    # Changing the indicator by Metropolis-Hastings kept the old branch's score: .503 instead of .9526 for P(heads).
    with jax.enable_x64(True):
        program = indicator(jnp.asarray(3.0))
        moves = transitions(program)
        heads = np.asarray(moves.states.choices["flip"]) == 1
        limit = np.linalg.matrix_power(moves.matrix, 4096)
        np.testing.assert_allclose(limit @ heads, 1 / (1 + np.exp(-3.0)), atol=1e-10)
        exact = program.enumerate().normalize().condition({"flip": 1})
        assert float(exact.mass) == pytest.approx(0.9526, abs=1e-4)
        unscored = transitions(indicator(jnp.asarray(0.0)))
        mutant = np.linalg.matrix_power(unscored.matrix, 4096) @ heads
        assert np.all(np.abs(mutant - 0.9526) > 0.4)


BASE = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def in_lanes():
    def lane(scale):
        noise = ppl.sample("noise", dist.Normal(0.0, scale))
        ppl.sample("x", dist.Normal(BASE[0] + noise, 0.5))

    ppl.vmap(lane)(jnp.array([1.0, 2.0, 3.0]))


def in_a_plate():
    with ppl.plate("rows", 3):
        noise = ppl.sample("noise", dist.Normal(0.0, jnp.array([1.0, 2.0, 3.0])))
        ppl.sample("x", dist.Normal(BASE[0] + noise[:, None], 0.5).to_event(1))


def in_numpyro():
    with numpyro.plate("rows", 3):
        noise = numpyro.sample("noise", dist.Normal(0.0, jnp.array([1.0, 2.0, 3.0])))
        numpyro.sample("x", dist.Normal(BASE[0] + noise[:, None], 0.5).to_event(1))


@pytest.mark.parametrize("program", [ppl.model(in_lanes)(), ppl.model(in_a_plate)(), ppl.from_numpyro(in_numpyro)()])
def test_vectors_that_share_one_scalar_noise(program, key):
    # A vectorising interpreter broadcast the scalar over the vector: the noise's density was counted once an element,
    # or every element got a noise of its own.
    with jax.numpy_rank_promotion("allow"):
        choices = program.simulate(key).choices
        found = program.log_density(choices)
    noise, x = np.asarray(choices["noise"]), np.asarray(choices["x"])
    assert (noise.shape, x.shape) == ((3,), (3, 2))
    expected = normal(noise, 0.0, np.array([1.0, 2.0, 3.0])) + normal(x, np.asarray(BASE[0]) + noise[:, None], 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def chain(prob):
    def step(state, y):
        state = ppl.sample("z", dist.Bernoulli(jnp.where(state == 1, prob, 0.25)))
        ppl.sample("y", dist.Normal(1.0 * state, 1.0), obs=y)
        return state, None

    lax.scan(step, 0, jnp.array([0.5, -1.0, 2.0]))


def test_sites_in_a_scan_are_not_ignored():
    # Sites and gradient estimators inside `lax.scan` were traced by the loop alone: no density, gradient zero.
    program = lambda prob: ppl.model(chain)(prob)
    path = {"z": jnp.array([1, 1, 0])}
    by_hand = lambda p: np.log([0.25, p, 1 - p]).sum() + normal(np.array([0.5, -1.0, 2.0]), np.array([1, 1, 0]), 1.0)
    density, gradient = jax.value_and_grad(lambda p: program(p).log_density(path))(jnp.array(0.75))
    np.testing.assert_allclose(density, by_hand(0.75), rtol=1e-5)
    np.testing.assert_allclose(gradient, 1 / 0.75 - 1 / 0.25, rtol=1e-5)
    finite = program(jnp.array(0.75)).enumerate()
    assert len(finite.weights) == 8
    np.testing.assert_allclose(finite.condition(path).log_mass, by_hand(0.75), rtol=1e-5)
    slope = jax.grad(lambda p: program(p).enumerate().log_mass)(jnp.array(0.75))
    assert abs(float(slope)) > 0.01
    assert program(jnp.array(0.75)).sites["z"].shape == (3,)


def test_lanes_over_the_second_axis(key):
    # `in_axes=1` was taken for axis 0, or the lanes came out along axis 1.
    rows = jnp.array([[0.0, 100.0, 200.0], [10.0, 110.0, 210.0]])
    lane = lambda column: ppl.sample("x", dist.Normal(column, 0.5))
    program = ppl.model(lambda rows: ppl.vmap(lane, in_axes=1)(rows))(rows)
    trace = program.simulate(key)
    assert trace.value.shape == trace.choices["x"].shape == (3, 2)
    np.testing.assert_allclose(trace.value, rows.T, atol=5.0)
    np.testing.assert_allclose(trace.log_density, normal(trace.value, rows.T, 0.5), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (1,), (3,), (4, 4)])
def test_an_observation_is_not_broadcast_against_its_distribution(shape):
    # y of shape (N, 1) against a mean of shape (N,) was silently scored as N * N observations.
    def model(y):
        mean = ppl.sample("mean", dist.Normal(0.0, 1.0).expand([4]))
        ppl.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.raises(ShapeError, match="'y'.*test_cases_others_get_wrong.py"):
        ppl.model(model)(jnp.zeros(shape)).sites  # noqa: B018


def test_an_observation_in_a_plate_is_not_broadcast():
    def model(y):
        with ppl.plate("n", 4):
            ppl.sample("y", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises(ShapeError, match="'y'"):
        ppl.model(model)(jnp.zeros((4, 1))).sites  # noqa: B018
    assert ppl.model(model)(jnp.zeros(4)).log_density({}).shape == ()


# --- addresses and state ---------------------------------------------------------------------------------------------


@ppl.model
def two():
    x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ppl.sample("z", dist.Bernoulli(jnp.where(x > 0, 0.25, 0.75)))


WRONG = {"x": jnp.array(0.5), "z": jnp.array(1), "typo": jnp.array(0.5)}
DOORS = {
    "log_density": lambda p: p.log_density(WRONG),
    "terms": lambda p: p.terms(WRONG),
    "replay": lambda p: p.replay(WRONG),
    "generate": lambda p: p.generate(0, {"typo": jnp.array(0.5)}),
    "condition": lambda p: p.condition({"typo": jnp.array(0.5)}),
    "substitute": lambda p: p.substitute({"typo": jnp.array(0.5)}),
    "intervene": lambda p: p.intervene({"typo": jnp.array(0.5)}),
    "marginal": lambda p: p.marginal(["x", "typo"]),
    "reparam": lambda p: ppl.reparam(p, {"typo": ppl.noncentered()}),
    "observed as a part": lambda p: ppl.model(lambda: ppl.sample("sub", p, obs={"typo": 0.5}))().sites,
    "finite": lambda p: p.condition({"x": jnp.array(0.5)}).enumerate().condition({"typo": 1}),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_unknown_addresses_are_errors_everywhere(door):
    # A mistyped address was dropped in silence; the model ran unconditioned.
    with pytest.raises((AddressError, ReparameterizationError), match="typo"):
        door(two())


def test_an_exception_leaves_nothing_behind(key):
    # A handler, plate or address prefix stayed on a global stack after an exception, and changed the next model.
    @ppl.model
    def failing(how):
        with ppl.plate("n", 3):
            if how == "python":
                raise KeyError(how)
            ppl.sample("x", dist.Normal(jnp.zeros(2 if how == "shape" else 3), 1.0), obs=jnp.zeros(3))
            ppl.sample("x", dist.Normal(0.0, 1.0))

    @ppl.model
    def outer(how):
        ppl.vmap(lambda: ppl.sample("sub", failing(how)), axis_size=2)()

    before = two().simulate(key)
    for how, error in (("python", KeyError), ("shape", ShapeError), ("twice", DuplicateAddressError)):
        with pytest.raises(error):
            outer(how).simulate(key)
        after = ppl.model(two.function)().simulate(key)
        assert set(after.choices) == {"x", "z"}
        assert after.choices["x"].shape == ()
        assert after.choices["x"] == before.choices["x"]


# --- weights, resampling, randomness ---------------------------------------------------------------------------------


@ppl.model
def coin(y):
    x = ppl.sample("x", dist.Bernoulli(0.25))
    ppl.sample("y", dist.Normal(2.0 * x, 1.0), obs=y)


@ppl.model
def proposal():
    """q(x = 1) = 0.375 * 0.875 + 0.625 * 0.125."""
    which = ppl.sample("which", dist.Bernoulli(0.375))
    ppl.sample("x", dist.Bernoulli(jnp.where(which == 1, 0.875, 0.125)))


def test_choices_of_the_proposal_alone_do_not_weigh(key):
    # The weight was p(x, y) / q(x, which): the auxiliary choice's density was counted against the target.
    y = 1.5
    posterior = ppl.infer(coin(jnp.array(y)), ppl.Importance(200, proposal(), smooth=False), key=key)
    x = np.asarray(posterior.draws["x"][0])
    one = 0.375 * 0.875 + 0.625 * 0.125
    target = {v: np.log(p) + normal(y, 2.0 * v, 1.0) for v, p in ((0, 0.75), (1, 0.25))}
    expected = [target[v] - np.log(one if v else 1 - one) for v in x.tolist()]
    found = np.asarray(posterior.stats["log_weight"]).reshape(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert set(x.tolist()) == {0, 1}


def test_systematic_resampling_stays_inside_in_float32(key):
    # At N = 1e5 the last positions ran past the rounded cumulative sum: index N, clipped or garbage, one run in 70.
    n = 100_000
    weights = jax.random.gamma(key, 0.3, (n,)).at[-50:].set(0.0)
    log_weights = jnp.log(weights)
    assert log_weights.dtype == jnp.float32
    below_one = np.nextafter(np.float32(1), np.float32(0))
    run = jax.jit(lambda u: systematic(u, log_weights, n))
    for u in (below_one, np.float32(1 - 2**-20), np.float32(0.0)):
        ancestors = np.asarray(run(jnp.asarray(u)))
        assert ancestors.min() >= 0
        assert ancestors.max() < n - 50
        assert np.all(np.asarray(weights)[ancestors] > 0)
    ends = np.cumsum(np.asarray(weights / weights.sum()), dtype=np.float32)
    positions = ((np.arange(n) + below_one) / n).astype(np.float32)
    assert np.searchsorted(ends, positions, side="right").max() == n  # the mutant


def test_no_key_is_used_twice(key):
    # Sites with equal distributions, steps of a loop, lanes, and parts at two addresses shared one key.
    noise = lambda address: ppl.sample(address, dist.Normal(0.0, 1.0))
    part = ppl.model(lambda: noise("x"))()

    def step(state, _):
        ppl.vmap(lambda: noise("in lanes in the loop"), axis_size=2)()
        return state, noise("in the loop")

    @ppl.model
    def everything():
        noise("a"), noise("b")
        ppl.sample("one", part), ppl.sample("two", part)
        lax.scan(step, 0, None, length=3)
        ppl.vmap(lambda: ppl.vmap(lambda: noise("in lanes of lanes"), axis_size=2)(), axis_size=3)()
        ppl.vmap(lambda: lax.scan(lambda c, _: (c, noise("in a loop in lanes")), 0, None, length=2), axis_size=3)()
        lax.cond(noise("c") > 0, lambda: noise("yes"), lambda: noise("no"))
        lax.scan(lambda c, _: lax.scan(lambda c, _: (c, noise("deep")), c, None, length=2), 0, None, length=3)
        with ppl.plate("n", 4):
            noise("in a plate")

    trace = everything().simulate(key)
    made = [np.asarray(x)[np.asarray(trace.masks.get(a, True))].reshape(-1) for a, x in trace.choices.items()]
    draws = np.concatenate(made)
    assert len(draws) == 2 + 2 + 3 * 2 + 3 + 6 + 6 + 2 + 6 + 4
    assert len(np.unique(draws)) == len(draws)
    other = np.concatenate([np.ravel(x) for x in everything().simulate(jax.random.fold_in(key, 1)).choices.values()])
    assert not np.intersect1d(draws, other).size
