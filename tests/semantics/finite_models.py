"""Models whose finite choices are to be summed out, one a structure, each with values for the choices that are kept."""

import jax
import jax.numpy as jnp
from jax import lax

import ppl
import ppl.distributions as dist

DATA = [0.3, -1.2, 2.0, 0.7, 0.1]
STEP2 = [[0.7, 0.3], [0.25, 0.75]]
STEP3 = [[0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]

CASES = {}
"""Name to (function of the data, values of the kept choices)."""


def case(**kept):
    def register(function):
        CASES[function.__name__] = (function, kept or {"loc": 0.7})
        return function

    return register


def location():
    return ppl.sample("loc", dist.Normal(0.0, 2.0))


def observe(name, mean, y, scale=1.0):
    ppl.sample(name, dist.Normal(mean, scale), obs=y)


def flip(name, state):
    """A step of the two-state chain."""
    return ppl.sample(name, dist.Bernoulli(jnp.asarray(STEP2)[state, 1]))


def three(name, state):
    return ppl.sample(name, dist.Categorical(probs=jnp.asarray(STEP3)[state]))


def emit(state, y, loc):
    """A step of the hidden two-state chain with its observation."""
    state = flip("z", state)
    observe("y", loc * state, y)
    return state, None


# --- lanes -----------------------------------------------------------------------------------------------------------


@case(mu=[-1.0, 0.5])
def mixture(ys):
    mu = ppl.sample("mu", dist.Normal(0.0, 2.0).expand([2]))
    ppl.vmap(lambda y: observe("y", mu[ppl.sample("z", dist.Bernoulli(0.7))], y))(ys)


@case()
def nested_lanes(ys):
    loc = location()

    def group(i, row):
        g = ppl.sample("g", dist.Bernoulli(0.2 + 0.1 * i))
        ppl.vmap(lambda y: observe("y", loc * ppl.sample("z", dist.Bernoulli(0.7)) + g, y))(row)

    ppl.vmap(group)(jnp.arange(2), jnp.stack([ys[:2], ys[1:3]]))


@case()
def lanes_with_unused_inputs_and_outputs(ys):
    loc = location()

    def lane(i, y):
        z = ppl.sample("z", dist.Bernoulli(0.2))
        observe("y", loc * z, y)
        return i * z

    ppl.vmap(lane)(jnp.arange(3), ys[:3])


@case()
def branches_of_lanes(ys):
    loc = location()
    top = ppl.sample("top", dist.Bernoulli(0.6))

    def lane(y):
        z = ppl.sample("z", dist.Bernoulli(0.7))

        def yes():
            return three("w", 1) * 1.0

        def no():
            ppl.factor("f", -0.3 * y)
            return loc

        observe("y", lax.cond(z == 1, yes, no) + top, y)

    ppl.vmap(lane)(ys[:2])


@case()
def axes_of_lanes(ys):
    loc = location()
    logits = jnp.asarray([[0.1, 0.2, 0.3], [1.0, -1.0, 0.0]])
    lane = lambda column, y: observe("y", loc * ppl.sample("z", dist.Categorical(logits=column)), y)
    ppl.vmap(lane, in_axes=(1, None))(logits, ys[0])


@case()
def sizes_that_are_python_numbers(ys):
    loc = location()

    def lane(y, p):
        n = ppl.sample("n", dist.Binomial(3, p))
        u = ppl.sample("u", dist.DiscreteUniform(1, 3))
        observe("y", n * u * loc, y)

    ppl.vmap(lane)(ys[:2], jnp.asarray([0.2, 0.3]))


@case()
def batch_shapes(ys):
    loc = location()
    z = ppl.sample("z", dist.Categorical(probs=jnp.asarray(STEP3)))
    b = ppl.sample("b", dist.Bernoulli(jnp.asarray([0.2, 0.7])).to_event(1))
    with ppl.plate("n", 2):
        observe("w", loc * ppl.sample("c", dist.Bernoulli(0.3)), ys[:2])
    observe("y", loc * z + b[0], ys[:3])
    ppl.sample("nothing", dist.Bernoulli(jnp.zeros(0)))


# --- chains ----------------------------------------------------------------------------------------------------------


def chain(ys, *, reverse, outside):
    loc = location()
    start = three("z0", 1) if outside else 0

    def step(z, inputs):
        y, time = inputs
        z = three("z", z)
        observe("y", loc * z + 0.1 * time, y)
        return z, None

    lax.scan(step, jnp.asarray(start), (ys, jnp.arange(len(ys))), reverse=reverse)


@case()
def hidden_markov(ys):
    chain(ys, reverse=False, outside=False)


@case()
def hidden_markov_in_reverse_from_a_drawn_start(ys):
    chain(ys, reverse=True, outside=True)


@case()
def start_observed_and_end_observed(ys):
    loc = location()
    z0 = three("z0", 1)
    observe("y0", z0 * 1.0, ys[0])

    def step(z, y):
        z = three("z", z)
        observe("y", loc * z, y)
        return z, None

    z, _ = lax.scan(step, z0, ys)
    observe("end", z * loc, ys[1], 0.5)


@case()
def start_used_again_after_the_chain(ys):
    loc = location()
    a, b = flip("a", 0), three("b", 1)
    z, _ = lax.scan(lambda z, y: emit(z, y, loc), a, ys)
    observe("late", a * b * loc + z, ys[0])


@case()
def second_order(ys):
    loc = location()
    a = ppl.sample("a", dist.Bernoulli(0.3))

    def step(state, y):
        before, last = state
        z = ppl.sample("z", dist.Bernoulli(0.1 + 0.3 * before + 0.4 * last))
        observe("y", loc * z + 0.3 * last, y)
        return (last, z), None

    (p, q), _ = lax.scan(step, (a, a * 0), jnp.concatenate([ys, ys[:3]]))
    ppl.factor("f", 0.3 * p * q)


@case(x=[0.1, 0.2, -0.4, 1.0, 0.3, 0.2, -0.5], scale=0.8)
def switching_between_given_states(ys):
    scale = ppl.sample("scale", dist.HalfNormal(1.0))

    def step(state, _):
        z, x = state
        z = ppl.sample("z", dist.Bernoulli(0.2 + 0.5 * z))
        x = ppl.sample("x", dist.Normal(0.9 * x + z, scale))
        return (z, x), None

    (z, x), _ = lax.scan(step, (jnp.asarray(0), jnp.zeros(())), None, length=7)
    observe("end", x * z, ys[1], 0.5)


@case()
def chain_in_lanes(ys):
    loc, g = location(), flip("g", 0)

    def lane(row):
        z, _ = lax.scan(lambda z, y: emit(z, y - g, loc), flip("z0", 1), row)
        ppl.factor("f", 0.2 * z)

    ppl.vmap(lane)(jnp.stack([ys[:3], ys[2:]]))


@case()
def lanes_in_chain(ys):
    loc = location()

    def step(z, row):
        z = flip("z", z)
        ppl.vmap(lambda y: observe("y", loc * ppl.sample("w", dist.Bernoulli(0.2 + 0.5 * z)), y))(row)
        return z, None

    lax.scan(step, jnp.asarray(0), jnp.stack([ys[:2], ys[1:3], ys[3:]]))


@case()
def branch_in_chain(ys):
    loc = location()

    def step(z, y):
        u = flip("u", z)
        z = lax.cond(u == 1, lambda: ppl.sample("v", dist.Bernoulli(0.3 + 0.2 * z)), lambda: 1 - z)
        observe("y", loc * z, y)
        return z, None

    lax.scan(step, jnp.asarray(0), ys[:4])


@case()
def chain_in_chain(ys):
    loc = location()

    def outer(z, row):
        z, _ = lax.scan(lambda z, y: emit(z, y, loc), z, row)
        return 1 - z, None

    lax.scan(outer, jnp.asarray(0), jnp.stack([ys[:2], ys[1:3], ys[2:4]]))


@case()
def one_step_that_hands_out_its_start(ys):
    loc = location()
    start = flip("z0", 0)
    _, out = lax.scan(lambda z, y: (flip("z", z), z * loc), start, ys[:1])
    observe("late", out, ys[:1])


@case()
def outputs_known_without_the_chain(ys):
    loc, g = location(), flip("g", 0)
    _, out = lax.scan(lambda z, y: (emit(z, y, loc)[0], y * loc + g), jnp.asarray(0), ys)
    observe("late", out[1] * out[3], ys[0])


@case()
def a_constant_carried_along_and_two_chains(ys):
    loc, g = location(), flip("g", 0)

    def step(state, y):
        z, w, g, time = state
        z, w = flip("z", z), flip("w", w)
        observe("y", loc * z + w + g * time, y)
        return (z, w, g, time + 1), None

    state, _ = lax.scan(step, (jnp.asarray(0), jnp.asarray(1), g, jnp.asarray(0)), ys[:3])
    lax.scan(lambda z, _: (flip("after", z), ppl.factor("f", 0.1 * z))[:1] * 1 + (None,), state[0], None, length=4)
    ppl.factor("end", 0.3 * state[0] * state[2])


# --- branches, wrappers, zeros ---------------------------------------------------------------------------------------


@case()
def wrapped_in_jit_and_checkpoint(ys):
    loc = location()
    part = jax.checkpoint(lambda z, y: emit(z, y, loc)[0])
    z = jax.jit(lambda z: lax.scan(lambda z, y: (part(z, y), None), z, ys)[0])(flip("z0", 0))
    jax.jit(lambda z: ppl.factor("f", z * 0.3))(z)


@case()
def switch_of_three(ys):
    loc = location()
    branches = [lambda: flip("a", 0) * loc, lambda: loc * 2, lambda: three("b", 0) * loc]
    observe("y", lax.switch(three("i", 2), branches), ys[0])


@case(loc=0.7, w=1)
def kept_choice_in_a_branch(ys):
    loc = location()
    observe("y", lax.cond(flip("i", 0) == 1, lambda: flip("w", 0) * loc, lambda: loc * 2), ys[0])


@case()
def zero_probabilities(ys):
    loc = location()
    z = ppl.sample("z", dist.Categorical(probs=jnp.asarray([0.0, 0.4, 0.6])))
    w = ppl.sample("w", dist.Categorical(probs=jnp.asarray([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])[z]))
    ppl.factor("f", jnp.where(w == 1, -jnp.inf, loc * z))
    observe("y", loc * z, ys[0])


@case()
def an_impossible_branch(ys):
    loc = location()

    def yes():
        w = flip("w", 0)
        ppl.factor("never", jnp.where(w >= 0, -jnp.inf, 0.0))
        return w * 1.0

    observe("y", lax.cond(flip("i", 0) == 1, yes, lambda: loc), ys[0])
