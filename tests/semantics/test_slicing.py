"""Blocks: the density of a block is the program's up to a constant, and holds no more than what the block reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError
from ppl.semantics.slicing import block, has_lanes, switched


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@ppl.model
def mixed(data):
    """Chains, a loop, a branch, lanes, a factor, an observation that holds a choice."""
    a = ppl.sample("a", dist.Normal(0.5, 1.5))
    b = ppl.sample("b", dist.Gamma(2.0, 3.0))
    c = ppl.sample("c", dist.Normal(jnp.sin(a), b))
    unused = ppl.deterministic("unused", c + 1.0)

    def step(state, y):
        x = ppl.sample("x", dist.Normal(state + c, 0.5))
        ppl.sample("y", dist.Normal(x, b), obs=y)
        return x, x**2

    _, squares = jax.lax.scan(step, jnp.zeros(()), data)

    def lane(y):
        z = ppl.sample("z", dist.Normal(a, 2.0))
        ppl.sample("w", dist.Normal(z, 1.0), obs=y)
        return z

    zs = ppl.vmap(lane)(data)
    jax.lax.cond(
        b > 0.5,
        lambda: ppl.sample("u", dist.Normal(zs[0], 1.0)),
        lambda: ppl.sample("v", dist.Normal(squares[1], 2.0)),
    )
    ppl.factor("f", -jnp.sum(zs**2) / 8.0)
    ppl.sample("late", dist.Normal(0.25, 1.0), obs=squares[0])
    return unused


REACHED = {
    "a": ["a", "c", "z"],
    "b": ["b", "c", "y", "v", "u"],
    "c": ["c", "x"],
    "x": ["x", "y", "v", "late"],
    "z": ["z", "w", "u", "f"],
    "u": ["u"],
    "v": ["v"],
}


@pytest.fixture(scope="module")
def program():
    with jax.enable_x64(True):
        return mixed(jnp.array([0.5, -1.0, 2.0]))


def draws(program):
    """Two full sets of choices (values of branches not taken too), and the program's log density."""
    keys = jax.random.split(jax.random.key(3), 2)
    infos = {a: i for a, i in program.sites.items() if i.kind == "latent"}
    return [
        {a: jnp.abs(jax.random.normal(jax.random.fold_in(key, n), i.shape)) for n, (a, i) in enumerate(infos.items())}
        for key in keys
    ]


@pytest.mark.parametrize("address", list(REACHED))
def test_a_block_holds_what_it_reaches_and_its_density_is_the_programs_up_to_a_constant(program, address):
    old, new = draws(program)
    moved = {**old, address: new[address]}
    sliced = block(program, address, old)
    assert list(sliced.sites) == REACHED[address]
    assert [a for a, i in sliced.sites.items() if i.kind == "latent"] == [address]
    difference = sliced.log_density({address: new[address]}) - sliced.log_density({address: old[address]})
    assert difference == pytest.approx(float(program.log_density(moved) - program.log_density(old)), abs=1e-10)


def test_a_block_of_several_choices(program):
    old, new = draws(program)
    both = {a: new[a] for a in ("a", "z")}
    sliced = block(program, ["a", "z"], old)
    assert sorted(sliced.sites) == ["a", "c", "f", "u", "w", "z"]
    difference = sliced.log_density(both) - sliced.log_density({a: old[a] for a in both})
    assert difference == pytest.approx(
        float(program.log_density({**old, **both}) - program.log_density(old)), abs=1e-10
    )


def test_choices_that_another_choice_switches_are_named(program):
    assert switched(program, ["b"]) == ["v", "u"]
    assert switched(program, ["a"]) == []


# --- one lane --------------------------------------------------------------------------------------------------------


@ppl.model
def two_rows(data):
    """One choice a lane; the observations stand in lanes of their own."""
    mu = ppl.sample("mu", dist.Normal(0.0, 1.0))
    scale = ppl.vmap(lambda: ppl.sample("scale", dist.Gamma(2.0, 1.0)), axis_size=3)()
    z = ppl.vmap(lambda s: ppl.sample("z", dist.Normal(mu, s)))(scale)
    ppl.deterministic("mean", jnp.mean(z))
    ppl.vmap(lambda z, y: ppl.sample("y", dist.Normal(z, 0.5), obs=y))(z, data)


@pytest.mark.parametrize("index", [0, 2])
def test_one_lane_is_evaluated_alone(index):
    program = two_rows(jnp.array([0.5, -1.0, 2.0]))
    old, new = draws(program)
    lane = jax.jit(lambda i: block(program, "z", old, index=i).log_density({"z": new["z"][2]}))
    before = block(program, "z", old, index=jnp.array(index)).log_density({"z": old["z"][index]})
    moved = {**old, "z": old["z"].at[index].set(new["z"][2])}
    assert lane(index) - before == pytest.approx(
        float(program.log_density(moved) - program.log_density(old)), abs=1e-10
    )
    sizes = [v.aval.shape for e in block(program, "z", old, index=jnp.array(1)).jaxpr.eqns for v in e.outvars]
    assert not [shape for shape in sizes if shape and e_is_large(shape)]


def e_is_large(shape):
    return np.prod(shape) >= 3


def test_lanes_that_other_terms_join_are_not_alone(program):
    assert not has_lanes(program, "z")
    assert not has_lanes(program, "a")
    with pytest.raises(AddressError, match="One lane of 'z'"):
        block(program, "z", draws(program)[0], index=0)


# --- the size of a slice ---------------------------------------------------------------------------------------------


@ppl.model
def many(data):
    for i in range(len(data)):
        x = ppl.sample(f"x{i}", dist.Normal(0.0, 1.0))
        ppl.sample(f"y{i}", dist.Normal(x, 1.0), obs=data[i])


def test_a_slice_of_one_of_many_is_as_small_as_of_one_of_few():
    sizes = {n: len(block(many(jnp.ones(n)), "x0", {}).jaxpr.eqns) for n in (2, 100)}
    assert sizes[2] == sizes[100]


def test_errors_name_the_address(program):
    with pytest.raises(AddressError, match="nobody"):
        block(program, "nobody", {})
    with pytest.raises(AddressError, match="kind is 'observed'"):
        block(program, "y", {})
    with pytest.raises(AddressError, match=r"needs the values of \['a', 'b', 'x'\]"):
        block(program, "c", {})
