"""SBC of programs: methods that are exact pass, wrong ones are killed at a rate of 1e-6, one compilation for all."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, ConvergenceWarning, MeasureError
from ppl.inference.calibration import thinned
from ppl.testing import LawViolation, sbc

X = jnp.array([-1.0, 0.5, 2.0])


@ppl.model
def line(x, y=None):
    slope = ppl.sample("slope", dist.Normal(0.5, 1.0))
    up = ppl.sample("up", dist.Bernoulli(0.3))
    with ppl.plate("n", 3):
        ppl.sample("y", dist.Normal(slope * x + 2.0 * up, 0.5), obs=y)


@dataclasses.dataclass(frozen=True)
class Conjugate:
    """Exact draws: `up` from its marginal law, `slope` given `up`; mutants shrink, shift or ignore the data."""

    width: float = 1.0
    shift: float = 0.0
    blind: bool = False
    warn: bool = False

    def run(self, program, key, settings):
        draws = settings.draws or 200
        if self.warn:
            warnings.warn("tau: R-hat 1.2", ConvergenceWarning, stacklevel=2)
        if self.blind:
            return ppl.Posterior(draws=_prior(key, draws))
        y = program.observed({"slope": 0.0, "up": 0})["y"]
        return ppl.Posterior(draws=_exact(key, y, draws, self.width, self.shift), program=program)


def _draws(key, shape, logit, mean, sd):
    up_key, key = jax.random.split(key)
    up = jax.random.bernoulli(up_key, jax.nn.sigmoid(logit), shape)
    return {"slope": mean[up.astype(int)] + sd * jax.random.normal(key, shape), "up": up.astype(jnp.int32)}


def _prior(key, draws):
    return _draws(key, (1, draws), jnp.log(0.3 / 0.7), jnp.array([0.5, 0.5]), 1.0)


def _exact(key, y, draws, width, shift):
    precision = 1.0 + jnp.sum(X**2) / 0.25
    residual = jnp.stack([y, y - 2.0])
    mean = (0.5 + residual @ X / 0.25) / precision
    # log N(residual; 0.5 x, 0.25 I + x x^T) for either value of `up`.
    off = residual - 0.5 * X[None]
    log_marginal = -0.5 * (jnp.sum(off**2, 1) / 0.25 - (off @ X / 0.25) ** 2 / precision)
    logit = jnp.log(0.3 / 0.7) + log_marginal[1] - log_marginal[0]
    sd = precision**-0.5
    return _draws(key, (1, draws), logit, mean + shift * sd, width * sd)


@pytest.fixture(scope="module")
def exact():
    return sbc(line(X, jnp.zeros(3)), Conjugate(), key=3, replicates=200, keep=49)


def test_an_exact_method_passes(exact):
    assert exact.check().p_value > 1e-6
    assert set(exact.ranks) == {"slope", "up", "log likelihood"}
    assert exact.most == 49
    assert exact.ranks["up"].shape == (200,)
    assert not exact.notes


@pytest.mark.parametrize(
    "mutant", [Conjugate(width=0.5), Conjugate(shift=1.0), Conjugate(blind=True)], ids=["narrow", "shifted", "prior"]
)
def test_mutants_are_killed(mutant):
    found = sbc(line(X), mutant, key=4, observed=["y"], replicates=200, keep=49, draws=100)
    with pytest.raises(LawViolation):
        found.check(1e-6)
    if mutant.blind:
        assert found.p_values["slope"] > 1e-6
        assert found.p_values["log likelihood"] < 1e-7


def test_exact_enumeration_and_weights_pass(key):
    @ppl.model
    def dice(y):
        a = ppl.sample("a", dist.Categorical(probs=jnp.array([0.5, 0.3, 0.2])))
        ppl.sample("y", dist.Binomial(6, jnp.array([0.2, 0.5, 0.9])[a]), obs=y)

    assert not sbc(dice(2), ppl.Exact(), key=key, keep=19).check().notes


def test_trace_mh_passes_and_reads_the_model_once(key):
    reads = []

    def body(x, y=None):
        reads.append(1)
        line.function(x, y)

    settings = {"chains": 2, "warmup": 10, "draws": 40, "progress": False}
    program = ppl.model(body)(X, jnp.zeros(3))
    found = sbc(program, ppl.MH(thin=20), key=key, replicates=60, keep=19, **settings)
    assert found.p_value > 1e-6
    assert len(reads) == 1


def test_warnings_of_runs_are_counted(key):
    found = sbc(line(X), Conjugate(warn=True), key=key, observed=["y"], replicates=3, keep=9)
    assert "3 of 3 runs warned" in repr(found)


def test_thinning_is_even_over_chains():
    posterior = ppl.Posterior(draws={"a": np.arange(12.0).reshape(3, 4)})
    assert thinned(posterior, jax.random.key(0), 6)["a"].tolist() == [0, 2, 4, 6, 8, 10]
    with pytest.raises(ValueError, match="keep=13 draws, but the posterior has 3 chains of 4"):
        thinned(posterior, jax.random.key(0), 13)


def test_what_cannot_be_simulated_is_refused(key):
    @ppl.model
    def weighted(y=None):
        a = ppl.sample("a", dist.Normal(0.0, 1.0))
        ppl.factor("w", -a)
        ppl.sample("y", dist.Normal(a, 1.0), obs=y)

    with pytest.raises(MeasureError, match=r"'weighted' cannot be drawn from: the sites \['w'\] weigh"):
        sbc(weighted(1.0), Conjugate(), key=key)
    with pytest.raises(AddressError, match=r"observed=\['z'\], of which \['z'\] are no choices"):
        sbc(line(X), Conjugate(), key=key, observed=["z"])
    with pytest.raises(AddressError, match=r"what the data of 'line' are; observed=\[\]"):
        sbc(line(X), Conjugate(), key=key)
    with pytest.raises(TypeError, match="call the model with its arguments"):
        sbc(line, Conjugate(), key=key)
