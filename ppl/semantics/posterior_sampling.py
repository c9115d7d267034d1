"""Exact conditional draws of the finite choices of a program, given all the others.

    finite choices ~ joint density(finite, given) / sum of it over the finite choices

The sum runs along the program's structure (`ppl.semantics.elimination`) with a zero added to the log probability of
each outcome of each choice. The derivative of the log of the sum in these zeros is the probability of each outcome.
Here the derivative of every log-sum-exp is the indicator of a draw instead of its expectation, so that the result is
the indicator of one joint draw: reverse mode goes from the last sum to the first, which in a chain is backward
sampling. Reference: Eisner (2016), *Inside-outside and forward-backward algorithms are just backprop*.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ppl.distributions.finite import outcomes, pick
from ppl.semantics import choices as ch
from ppl.semantics.elimination import summed
from ppl.semantics.enumeration import finite_outcomes
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.summed_sites import Tap


class Chosen(Handler):
    """Read the value of a choice that is given, the number of the outcome (of every element) of any other.

    Writes the values of the others, or, with `sizes`, an array of shape (*batch, K) for each.
    """

    def __init__(self, given: frozenset[str], *, sizes: bool = False) -> None:
        self.given, self.sizes = given, sizes

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Take the outcome by its number, by default the first."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, ())
        if node.address in self.given:
            return Outcome(read, ())
        found = finite_outcomes(node)
        index = jnp.zeros(found.log_probs.shape[1:], int) if read is None else read
        value = shaped(pick(found, index)[0], node)
        return Outcome(value, (), jnp.moveaxis(found.log_probs, 0, -1) if self.sizes else value)


def shaped(value: Any, node: SampleSite) -> Any:
    """An outcome in the shape and dtype of the site's value."""
    leaves = [
        jnp.reshape(leaf, aval.shape).astype(aval.dtype)
        for leaf, aval in zip(jax.tree.leaves(value), node.signature.avals, strict=True)
    ]
    return jax.tree.unflatten(node.signature.value_tree, leaves)


def is_finite(node: SampleSite) -> bool:
    """Whether a latent choice is discrete with finitely many outcomes, their number known while tracing."""
    discrete = all(not jnp.issubdtype(aval.dtype, jnp.floating) for aval in node.signature.avals)
    return discrete and node.observed is None and outcomes(node.measure) is not None


def draw_finite(program: Any, key: Any, given: Choices) -> Choices:
    """Draw all choices that are not given from their exact joint conditional law.

    Args:
        program: A program whose other choices are finite and can be summed out.
        key: A JAX key.
        given: Values by address, of all choices that are not to be drawn.

    Returns:
        Values by address of the choices drawn; those of branches not taken are their first outcome.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def coin():
        ...     z = ppl.sample("z", dist.Bernoulli(0.5))
        ...     ppl.sample("y", dist.Bernoulli(1.0 * z), obs=1)
        >>> int(draw_finite(coin(), jax.random.key(0), {})["z"])
        1
    """
    staged = program.staged
    reads = ch.nest(given, staged)
    known = frozenset(reads)
    shapes = jax.eval_shape(lambda: program.run(Chosen(known, sizes=True), reads)[1].writes)
    taps = {address: jnp.zeros(shape.shape, jnp.result_type(float)) for address, shape in shapes.items()}

    def mass(taps: Choices) -> Any:
        return summed(program, {**reads, **{a: Tap(tap) for a, tap in taps.items()}}, key=key)

    indicators = jax.grad(mass)(taps)
    index = {address: jnp.argmax(indicator, axis=-1) for address, indicator in indicators.items()}
    writes = program.run(Chosen(known), {**reads, **index})[1].writes
    return ch.flatten(writes, staged, ("latent",))
