"""Law 34 for NUTS and HMC: the joint law of parameters and data stays, under the compiled chain with a fixed step size.

False-alarm rate 1e-6. The chain is the one that `ppl.NUTS` runs (`ppl.numerics.chain.stretch`), with its own metric;
the mutants are a target without its Jacobian, momenta of a wrong size, and energies without their kinetic part.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import LawViolation
from ppl.inference.flat import Flat
from ppl.inference.warmup import initial_state
from ppl.numerics import chain
from ppl.numerics.chain import Stretch, sizes_for, stretch
from ppl.numerics.metric import Metric, pull_gradient
from ppl.numerics.trajectory import Point
from ppl.testing import one_step_joint

STEP = 0.7


@ppl.model
def joint(y=None):
    """Asymmetric, with a bounded and a positive choice."""
    share = ppl.sample("share", dist.Beta(2.0, 1.0))
    size = ppl.sample("size", dist.Gamma(2.0, 1.0))
    shift = ppl.sample("shift", dist.Normal(0.5, 1.0))
    with ppl.plate("n", 2):
        ppl.sample("y", dist.Normal(shift + share, 0.3 + size), obs=y)


METRIC = Metric(
    jnp.array([0.3, -0.2, 0.1]),
    jnp.array([1.2, 0.7, 0.9]),
    jnp.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]),
    jnp.array([0.5, 7.0]),
    jnp.int32(1),
)


class NoJacobian(NamedTuple):
    """A target whose density is that of the constrained choices."""

    flat: Flat

    def log_density(self, vector):
        return self.flat.program.log_density(self.flat.choices(vector))


def moved(key, pair, target_of, doublings):
    """Two transitions of the compiled chain, from parameters given the data."""
    flat = Flat(joint(pair["y"]))
    start = flat.vector({address: pair[address] for address in ("share", "size", "shift")})
    density = jax.value_and_grad(target_of(flat).log_density)
    coordinates = inverse(METRIC, start)
    state = jax.tree.map(jnp.asarray, initial_state(np.zeros(3, np.float32)))
    step = state.step._replace(log_average=jnp.log(jnp.float32(STEP)))
    value, gradient = density(start)
    point = Point(coordinates, jnp.zeros(3), pull_gradient(METRIC, gradient, lockstep=True), value)
    state = state._replace(point=point, step=step)
    sizes = sizes_for(3, doublings)._replace(rows=1, block=1, lockstep=True)
    two = Stretch(
        *map(jnp.int32, (2, 2)), jnp.float32(0.8), jnp.bool_(False), jnp.int32(4), *map(jnp.float32, (1, 1.5))
    )

    def side_by_side(state):
        return stretch(density, METRIC, state, key, two, sizes)

    alone = jax.tree.map(lambda x: x[None], state)
    _, record = jax.vmap(side_by_side, axis_name=chain.CHAINS)(alone)
    return pair | flat.choices(record.positions[0, 0])


def inverse(metric, x):
    """Coordinates of a position, for a metric of one direction."""
    direction, s = metric.directions[0], metric.stretch[0]
    z = (x - metric.center) / metric.scale
    return z + (1.0 / (1.0 + s) - 1.0) * jnp.sum(direction * z) * direction


def joint_test(key, target_of=lambda flat: flat, doublings=4):
    def draw(key):
        return joint().simulate(key).choices

    def move(key, pair):
        return moved(key, pair, target_of, doublings)

    def quantities(pair):
        flat = {a: pair[a] for a in ("share", "size", "shift")}
        return flat | {"first": pair["y"][0], "second": pair["y"][1], "log density": joint().log_density(pair)}

    return one_step_joint(draw, move, key=key, replicates=1500, quantities=quantities)


@pytest.mark.parametrize("doublings", [4, 0], ids=["nuts", "hmc"])
@pytest.mark.slow
def test_the_joint_law_stays(doublings, key):
    joint_test(key, doublings=doublings).check(1e-6)


@pytest.mark.slow
def test_without_the_jacobian_it_dies(key):
    with pytest.raises(LawViolation):
        joint_test(key, NoJacobian).check(1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("doublings", [4, 0], ids=["nuts", "hmc"])
def test_momenta_of_a_wrong_size_die(doublings, key, monkeypatch):
    drawn = chain._noise

    def smaller(*args):
        noise = drawn(*args)
        return noise._replace(momenta=0.6 * noise.momenta)

    monkeypatch.setattr(chain, "_noise", smaller)
    with pytest.raises(LawViolation):
        joint_test(key, doublings=doublings).check(1e-6)


@pytest.mark.slow
def test_weights_without_the_kinetic_energy_die(key, monkeypatch):
    monkeypatch.setattr(chain.Point, "energy", property(lambda point: -point.log_density))
    with pytest.raises(LawViolation):
        joint_test(key).check(1e-6)
