"""Moves for the laws of Metropolis-Hastings and of combined kernels, and their mutants."""

from functools import partial

import jax
import jax.numpy as jnp

import ppl
import ppl.distributions as dist
from ppl.inference import combinators as made
from ppl.inference import independence, mh, random_walk
from ppl.inference.independence import independence_step
from ppl.inference.kernels import State
from ppl.inference.metropolis import mh_step
from ppl.inference.random_walk import walk_step
from ppl.semantics.language import sample


@ppl.model
def near(choices):
    """A lopsided move of `a` and `b`, which looks at `c`, and proposes values of mass zero too."""
    a = ppl.sample("a", dist.Bernoulli(jnp.where(choices["c"] == 1, 0.75, 0.25)))
    ppl.sample("b", dist.Categorical(jnp.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])[a]))


@ppl.model
def by_a_coin(choices):
    """An auxiliary coin decides which way `b` goes round its three values."""
    up = ppl.sample("up", dist.Bernoulli(0.75))
    stay = jax.nn.one_hot(choices["b"], 3)
    go = jax.nn.one_hot((choices["b"] + jnp.where(up == 1, 1, 2)) % 3, 3)
    ppl.sample("b", dist.Categorical(0.25 * stay + 0.75 * go))


def other_way(old, aux, new):
    """The way back goes round the other way."""
    del old, new
    return {"up": 1 - aux["up"]}


@ppl.model
def other_branch(choices):
    """Draws all of `branching` anew."""
    flip = ppl.sample("a", dist.Bernoulli(jnp.where(choices["a"] == 1, 0.25, 0.625)))

    def yes():
        return ppl.sample("u", dist.Bernoulli(0.5)) + ppl.sample("v", dist.Bernoulli(0.25))

    def no():
        return ppl.sample("w", dist.Categorical(jnp.array([0.25, 0.25, 0.5])))

    jax.lax.cond(flip == 1, yes, no)


@ppl.model
def wider(choices):
    """A lopsided continuous move of a line's two choices."""
    ppl.sample("slope", dist.Normal(0.75 * choices["slope"] + 0.25, 0.5))
    ppl.sample("spread", dist.LogNormal(0.75 * jnp.log(choices["spread"]), 0.3))


WIDER, TO_B = mh(wider), mh(near)


def proposal_of_a_line():
    """A proposal for a line, far from its prior and of positive density everywhere."""
    return {"slope": dist.Normal(1.0, 2.5), "spread": dist.Gamma(4.0, 2.0)}


PROPOSAL = independence(proposal_of_a_line())
PRIOR = independence()
WALK, INTEGERS = random_walk(0.5), random_walk(stride=1)

# --- mutants: wrong ratios --------------------------------------------------------------------------------------------


def no_backward(ratio):
    return ratio.target + ratio.forward


def no_forward(ratio):
    return ratio.target + ratio.backward


def no_proposal(ratio):
    return ratio.target


def inverted(ratio):
    return -sum(ratio)


def always(ratio):
    return jnp.zeros_like(ratio.target)


def wrong(step, setting, log_ratio, program):
    return partial(_wrong, step, setting, log_ratio, program)


def _wrong(step, setting, log_ratio, program, state):
    return ppl.Program.of(step, (program, state, setting), {"log_ratio": log_ratio})


def wrong_walk(move, log_ratio):
    return partial(wrong, walk_step, move, log_ratio)


def wrong_mh(move, log_ratio):
    return partial(wrong, mh_step, move, log_ratio)


def wrong_independence(proposal, log_ratio):
    return partial(_wrong_independence, proposal, log_ratio)


def _wrong_independence(move, log_ratio, program):
    proposal = None if move.proposal is None else move.proposal.value
    return wrong(independence_step, proposal, log_ratio, program)


# --- mutants: wrong combinations --------------------------------------------------------------------------------------


def mixture_by_state(program):
    """Picks the kernel by looking at the state."""
    return partial(_mixture_by_state, program)


def _mixture_by_state(program, state):
    return ppl.Program.of(_pick_by_state, (program, state))


def _pick_by_state(program, state):
    first, second = made.on("a", PRIOR)(program), made.on("b", PRIOR)(program)
    probs = jnp.where(state.choices["b"] == 1, 0.875, 0.25)
    one = ppl.sample("0", first(state))
    two = ppl.sample("1", second(state))
    picked = sample("pick", dist.Bernoulli(probs))
    return jax.tree.map(lambda x, y: jnp.where(picked == 1, x, y), one, two)


def repeat_until_accepted(program):
    """Takes a second step only where the first was refused."""
    return partial(_until_accepted, program)


def _until_accepted(program, state):
    return ppl.Program.of(_again_if_refused, (program, state))


def _again_if_refused(program, state):
    kernel = PRIOR(program)
    one = ppl.sample("0", kernel(state))
    two = ppl.sample("1", kernel(one))
    stayed = jnp.all(jnp.stack([one.choices[a] == state.choices[a] for a in state.choices]))
    return jax.tree.map(lambda x, y: jnp.where(stayed, x, y), two, one)


def block_of_the_prior(program):
    """Moves `b` by its prior, and forgets what `b` reaches."""
    return partial(_block_of_the_prior, program)


def _block_of_the_prior(program, state):
    return ppl.Program.of(_redraw_b, (program, state))


def _redraw_b(program, state):
    del program
    law = jnp.array([[0.5, 0.375, 0.125], [0.25, 0.125, 0.625]])[state.choices["a"]]
    b = ppl.sample("b", dist.Categorical(law))
    return State({**state.choices, "b": b.astype(state.choices["b"].dtype)}, state.masks)


def forgetful_cycle(program):
    """Both kernels start from the old state; changes of `a` by the first and of `b` by the second are put together."""
    return partial(_forgetful, program)


def _forgetful(program, state):
    return ppl.Program.of(_both_from_old, (program, state))


def _both_from_old(program, state):
    one = ppl.sample("0", made.on("a", PRIOR)(program)(state))
    two = ppl.sample("1", made.on("b", PRIOR)(program)(state))
    return State({**state.choices, "a": one.choices["a"], "b": two.choices["b"]}, state.masks)
