"""Normalised programs: a finite program divided by its mass, as a program that can be drawn from.

    Program.normalize() : density(choices) = joint density(choices) / mass

Law: the mass is one, and the ratio of the densities of two traces is that of the program. Drawing enumerates the
program, so every choice must be finite; scoring needs only that they can be summed out.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ppl.distributions.finite import Outcomes
from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.elimination import log_marginal
from ppl.semantics.enumeration import DEFAULT_LIMIT, enumerate_program
from ppl.semantics.handlers import Values
from ppl.semantics.site import Site, Source


@jax.tree_util.register_pytree_node_class
class Normalized:
    """The law of a finite program's choices given its observations: a measure whose values are dicts of all choices."""

    def __init__(self, program: Any, limit: int = DEFAULT_LIMIT) -> None:
        self.program = program
        self.limit = limit

    def tree_flatten(self) -> tuple[tuple[Any], int]:
        """The program is the child; the limit of rows is static."""
        return (self.program,), self.limit

    @classmethod
    def tree_unflatten(cls, limit: int, children: tuple[Any]) -> "Normalized":
        """Rebuild from leaves."""
        return cls(children[0], limit)

    def value_like(self) -> dict[str, Any]:
        """Shapes and dtypes of the choices."""
        staged = self.program.staged
        return ch.values_like(staged, tuple(ch.latent_infos(staged)))

    def outcomes(self) -> Outcomes:
        """All choices with their posterior log probabilities."""
        measure = enumerate_program(self.program, self.limit)
        return Outcomes(measure.choices, measure.log_weights - measure.log_mass)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> dict[str, Any]:
        """Exact draws from the posterior."""
        choices, log_probs = self.outcomes()
        index = jax.random.categorical(key, log_probs, shape=sample_shape)
        return jax.tree.map(lambda x: jnp.asarray(x)[index], choices)

    def log_prob(self, value: dict[str, Any]) -> Any:
        """Log posterior probability of the choices, in nats."""
        return self.program.log_density(value) - log_marginal(self.program, {})


def normalized_model(measure: Any, source: Source) -> Any:
    """The model behind `Program.normalize`: one site over all choices; the program's value under them."""
    program = measure.program
    choices = bind_sample(Site("", "latent", source), measure)
    return program.run(Values(), ch.nest(choices, program.staged))[0]
