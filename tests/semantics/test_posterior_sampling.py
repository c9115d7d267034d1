"""Draws of finite choices against their enumerated conditional law: chi-square tests, false alarms 1e-6 each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

import ppl
import ppl.distributions as dist
from ppl.semantics import named
from ppl.semantics.posterior_sampling import draw_finite

DRAWS = 20_000
STEP = jnp.asarray([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]])


@pytest.fixture(autouse=True)
def _promoting():
    with jax.numpy_rank_promotion("allow"):  # NumPyro's categorical draw promotes
        yield


def observe(name, mean, y):
    ppl.sample(name, dist.Normal(mean, 0.9), obs=y)


def chain():
    def step(z, y):
        z = ppl.sample("z", dist.Categorical(STEP[z]))
        observe("y", 1.0 * z, y)
        return z, None

    z, _ = lax.scan(step, ppl.sample("start", dist.Bernoulli(0.3)), jnp.asarray([0.3, 1.2, 1.9, 0.7]))
    ppl.factor("f", jnp.where(z == 1, -jnp.inf, 0.0))


def chain_of_ten():
    """Long enough for a loop; the observations leave little choice but for the last steps."""

    def step(z, y):
        z = ppl.sample("z", dist.Bernoulli(0.2 + 0.6 * z))
        ppl.factor("f", jnp.where(y < 0, 0.4 * z, jnp.where(z == y, 0.0, -jnp.inf)))
        return z, None

    lax.scan(step, jnp.asarray(0), jnp.asarray([-1, 1, -1, 0, -1, 1, -1, -1, -1, -1]))


def plates_and_a_shared_choice():
    top = ppl.sample("top", dist.Bernoulli(0.4))
    with ppl.plate("n", 3):
        z = ppl.sample("z", dist.Categorical(jnp.asarray([0.2, 0.5, 0.3])))
        observe("y", z + 1.5 * top, jnp.asarray([0.3, 1.4, 2.0]))


def lanes_and_a_shared_choice():
    top = ppl.sample("top", dist.Bernoulli(0.4))

    def lane(y):
        z = ppl.sample("z", dist.Bernoulli(0.3))
        w = ppl.sample("w", dist.Bernoulli(0.2 + 0.5 * z))
        observe("y", z + w + 1.5 * top, y)

    ppl.vmap(lane)(jnp.asarray([0.3, 1.4]))


def branches():
    i = ppl.sample("i", dist.Bernoulli(0.4))
    mean = lax.cond(
        i == 1,
        lambda: 1.0 * ppl.sample("a", dist.Bernoulli(0.3)),
        lambda: 2.0 * ppl.sample("b", dist.Categorical(STEP[0])),
    )
    observe("y", mean, 1.2)


def mixed_elements():
    z = ppl.sample("z", dist.Bernoulli(jnp.asarray([0.2, 0.5, 0.7])))
    observe("y", 1.0 * z.sum(), 1.2)


MODELS = [chain, chain_of_ten, plates_and_a_shared_choice, lanes_and_a_shared_choice, branches, mixed_elements]


def p_value(function, key):
    """Chi-square of joint draws against the enumerated conditional law; zero where an impossible one was drawn."""
    program = ppl.model(lambda: function())()
    drawn = jax.jit(jax.vmap(lambda k: draw_finite(program, k, {})))(jax.random.split(key, DRAWS))
    finite = program.enumerate()
    expected, counts = {}, {}
    for row, weight in zip(_rows(finite.choices), np.asarray(finite.weights, np.float64), strict=True):
        expected[row] = expected.get(row, 0.0) + weight
    for row in _rows(drawn):
        counts[row] = counts.get(row, 0) + 1
    if any(expected.get(row, 0.0) == 0 for row in counts):
        return 0.0
    total = sum(expected.values())
    pairs = [(counts.get(row, 0), DRAWS * w / total) for row, w in expected.items()]
    large = [pair for pair in pairs if pair[1] >= 5]
    small = np.sum([pair for pair in pairs if pair[1] < 5], axis=0)
    cells = np.asarray([*large, *([small] if np.size(small) == 2 and small[1] > 0.5 else [])])
    return stats.chi2.sf(np.sum((cells[:, 0] - cells[:, 1]) ** 2 / cells[:, 1]), max(len(cells) - 1, 1))


def _rows(choices):
    names = sorted(choices)
    flat = np.concatenate([np.asarray(choices[a]).reshape(len(choices[a]), -1) for a in names], axis=1)
    return [tuple(row) for row in flat.astype(int).tolist()]


@pytest.mark.parametrize("function", MODELS, ids=lambda f: f.__name__)
@pytest.mark.slow
def test_draws_follow_the_conditional_law(function, key):
    assert p_value(function, key) > 1e-6


def marginals_alone(monkeypatch):
    """The indicator of each sum is drawn by its probabilities, but cotangents are ignored."""
    right = named.drawn_logsumexp

    def wrong(array, axis, key):
        noise = jax.random.gumbel(key, array.shape, array.dtype)
        top = jnp.max(array + noise, axis=axis)
        return top + 0 * right(array, axis, key)

    monkeypatch.setattr(named, "drawn_logsumexp", wrong)


def one_noise_for_all_steps(monkeypatch):
    monkeypatch.setattr(
        named.Variables, "split", lambda self, n: None if self.key is None else jnp.stack([self.key] * n)
    )


@pytest.mark.parametrize(
    ("mutate", "function"),
    [
        (marginals_alone, plates_and_a_shared_choice),
        (one_noise_for_all_steps, chain_of_ten),
        (one_noise_for_all_steps, lanes_and_a_shared_choice),
    ],
)
@pytest.mark.slow
def test_mutants_die(mutate, function, key, monkeypatch):
    mutate(monkeypatch)
    assert p_value(function, key) < 1e-6
