"""Law 34: simulation-based calibration of NUTS, on a model with a bounded parameter; a mutant is killed at 1e-6."""

import dataclasses

import jax.numpy as jnp
import pytest

import ppl
import ppl.distributions as dist
from ppl.testing import LawViolation, sbc

SETTINGS = {"replicates": 150, "keep": 39, "chains": 1, "warmup": 150, "draws": 195, "progress": False}


@ppl.model
def spread(x, y=None):
    slope = ppl.sample("slope", dist.Normal(0.5, 1.0))
    sigma = ppl.sample("sigma", dist.LogNormal(0.0, 0.5))
    with ppl.plate("n", 5):
        ppl.sample("y", dist.Normal(slope * x, sigma), obs=y)
    return sigma


@ppl.model
def tilted(program):
    ppl.factor("tilt", -3.0 * jnp.log(ppl.sample("inner", program)))


@dataclasses.dataclass(frozen=True, eq=False)
class Tilted:
    """NUTS with a wrong Jacobian: the density of sigma has a factor of sigma^-3 too many."""

    method: ppl.NUTS

    def run(self, program, key, settings):
        posterior = self.method.run(tilted(program), key, settings)
        return ppl.Posterior(draws={address.removeprefix("inner/"): x for address, x in posterior.draws.items()})


def calibrate(method, key):
    program = spread(jnp.array([-1.0, 0.5, 1.0, 2.0, 3.0]))
    return sbc(program, method, key=key, observed=["y"], **SETTINGS)


@pytest.mark.slow
def test_nuts_is_calibrated(key):
    found = calibrate(ppl.NUTS(), key).check()
    assert set(found.ranks) == {"slope", "sigma", "log likelihood"}


@pytest.mark.slow
def test_nuts_with_a_wrong_jacobian_is_killed(key):
    with pytest.raises(LawViolation, match=r"not calibrated.*\n.*\n.*\n.*sigma.*draws too low"):
        calibrate(Tilted(ppl.NUTS()), key).check()
