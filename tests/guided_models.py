"""Finite programs with proposals for them: straight-line, loops, branches, lanes; what the laws of filters run over.

`pair(name, tables)` makes a program and a proposal from tables of probabilities, new functions each time it is called
with `fresh`, so that a mutant is not hidden by the cache of staged programs.
"""

import jax
import jax.numpy as jnp
import numpy as np

import ppl
import ppl.distributions as dist


def tables(seed):
    """Probabilities away from 0 and 1, and unequal."""
    return np.random.default_rng(seed).uniform(0.15, 0.85, size=(12,))


def bit(address, p):
    return ppl.sample(address, dist.Bernoulli(p))


def three(*weights):
    weights = jnp.array(weights)
    return dist.Categorical(weights / jnp.sum(weights))


def straight(t):
    a = bit("a", t[0])
    b = bit("b", jnp.where(a == 1, t[1], t[2]))
    ppl.factor("f", jnp.log(1.0 + a + 2.0 * b))
    c = bit("c", jnp.where(b == 1, t[3], t[4]))
    return a + 2 * b + 4 * c


def straight_proposal(t):
    a = bit("a", t[5])
    ppl.sample("seen", dist.Bernoulli(t[6]), obs=jnp.array(1))
    bit("b", jnp.where(a == 1, t[7], t[8]))


def backwards(t):
    """The choices in the opposite order."""
    c = bit("c", t[5])
    b = bit("b", jnp.where(c == 1, t[6], t[7]))
    bit("a", jnp.where(b == 1, t[8], t[9]))


def loop(t):
    def step(x, y):
        x = bit("x", jnp.where(x == 1, t[1], t[2]))
        ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, t[3], t[4])), obs=y)
        return x, x

    xs = jax.lax.scan(step, bit("a", t[0]), jnp.array([0, 1, 1]))[1]
    return jnp.sum(xs * jnp.array([1, 2, 4]))


def loop_proposal(t):
    """It looks at the observation of the step and at its own choice before."""

    def step(x, y):
        return bit("x", jnp.where(y == 1, t[6], t[7]) * jnp.where(x == 1, 1.0, 0.8)), None

    jax.lax.scan(step, jnp.int32(1).astype(jnp.result_type(int)), jnp.array([0, 1, 1]))


def backward_loop_proposal(t):
    def step(x, y):
        return bit("x", jnp.where(y == 1, t[6], t[7]) * jnp.where(x == 1, 1.0, 0.8)), None

    jax.lax.scan(step, jnp.zeros((), int), jnp.array([0, 1, 1]), reverse=True)


def whole_loop_proposal(t):
    """The choices of a loop, made side by side in lanes before it."""
    ppl.vmap(lambda y: bit("x", jnp.where(y == 1, t[6], t[7])))(jnp.array([0, 1, 1]))


def auxiliary_proposal(t):
    def step(x, y):
        u = bit("u", jnp.where(x == 1, t[6], t[7]))
        return bit("x", jnp.where(u == y, t[8], t[9])), None

    jax.lax.scan(step, jnp.zeros((), int), jnp.array([0, 1, 1]))


def backward_kernel(t):
    """The law of `u` given the program's `x`, which is read."""

    def step(x, y):
        now = bit("x", 0.5)
        bit("u", jnp.where(now == y, t[10], t[11]) * jnp.where(x == 1, 1.0, 0.9))
        return now, None

    jax.lax.scan(step, jnp.zeros((), int), jnp.array([0, 1, 1]))


def branch(t):
    z = bit("z", t[0])

    def yes():
        a = bit("a", t[1])
        ppl.factor("fa", 0.7 * a)
        return a

    def no():
        b = ppl.sample("b", three(t[2], t[3], 1.0))
        ppl.factor("fb", 0.3 * b)
        return b

    v = jax.lax.cond(z == 1, yes, no)
    return z + 2 * v + 8 * bit("c", jnp.where(v == 1, t[4], t[5]))


def branch_proposal(t):
    z = bit("z", t[6])
    yes = lambda: bit("a", t[7])
    no = lambda: ppl.sample("b", three(1.0, t[8], t[9]))
    v = jax.lax.cond(z == 1, yes, no)
    bit("c", jnp.where(v == 1, t[10], t[11]))


def crossed_proposal(t):
    """Its branches are taken the other way round: what they make the program's branches need not."""
    z = bit("z", t[6])
    yes = lambda: bit("a", t[7])
    no = lambda: ppl.sample("b", three(1.0, t[8], t[9]))
    jax.lax.cond(z == 0, yes, no)


def unbranched_proposal(t):
    """It makes a branch's choice outside, and a choice of its own branches where the program has none."""
    a = bit("a", t[6])
    c = jax.lax.cond(a == 1, lambda: bit("c", t[7]), lambda: bit("c", t[8]))
    bit("z", jnp.where(c == 1, t[9], t[10]))


def lanes(t):
    xs = ppl.vmap(lambda p: bit("x", p))(t[:3])
    ppl.factor("f", jnp.log(1.0 + xs[0] + 2.0 * xs[1] * xs[2]))
    return jnp.sum(xs * jnp.array([1, 2, 4]))


def lanes_proposal(t):
    ppl.vmap(lambda p: bit("x", p))(t[3:6])


PAIRS = {
    "straight": (straight, straight_proposal),
    "other order": (straight, backwards),
    "loop": (loop, loop_proposal),
    "loop backwards": (loop, backward_loop_proposal),
    "loop from lanes": (loop, whole_loop_proposal),
    "branch": (branch, branch_proposal),
    "branch crossed": (branch, crossed_proposal),
    "branch unlike": (branch, unbranched_proposal),
    "lanes": (lanes, lanes_proposal),
}


def pair(name, t, *, fresh=False):
    """A program and a proposal for it."""
    return tuple(bound(body, t, fresh=fresh) for body in PAIRS[name])


def bound(body, t, *, fresh=False):
    """The program of a function of the tables."""
    body = (lambda t, body=body: body(t)) if fresh else body
    return ppl.Program.of(body, (jnp.asarray(t),))
