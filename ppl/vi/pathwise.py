"""Pathwise derivatives: the draw itself is a differentiable function of the parameters."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ppl.vi.strategy import Node, Rest, Run, Totals, expect_directly, nothing


@dataclass(frozen=True)
class Reparam:
    """Differentiate through the draw, `x = g(noise, parameters)`; the rest must be smooth in x.

    For every distribution whose sampler JAX can differentiate: location-scale families, transformed distributions,
    and those with implicit derivatives of their own (gamma, beta, Dirichlet).

    Attributes:
        smooth: The user's word that the rest is continuous in x where it looks as if it were not: the static check
            (`vi.check`) leaves this choice alone.
    """

    smooth: bool = False
    direct: bool = True

    def made(self, node: Node, raw: Any, run: Run) -> tuple[Any, Totals]:
        """The draw, with its derivative."""
        del node, run
        return raw, nothing()

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The rest at the draw."""
        return expect_directly(self, node, run, rest)


@dataclass(frozen=True)
class Noise:
    """A choice that no parameter reaches: drawn, and not differentiated. Biased where a parameter does reach it."""

    direct: bool = True

    def made(self, node: Node, raw: Any, run: Run) -> tuple[Any, Totals]:
        """The draw, held fixed."""
        del node, run
        return jax.tree.map(jax.lax.stop_gradient, raw), nothing()

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The rest at the draw."""
        return expect_directly(self, node, run, rest)


def reparam(*, smooth: bool = False) -> Reparam:
    """Differentiate through the draw.

    Valid where the rest of the objective is continuous in the value and differentiable almost everywhere.

    Args:
        smooth: Your word that it is, where `vi.check` finds a comparison (both sides agree where it switches).

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def square(mean):
        ...     return ppl.sample("x", dist.Normal(mean, 1.0), grad=vi.reparam()) ** 2
        >>> draws = jax.vmap(lambda key: square.grad(key, 1.5))(jax.random.split(jax.random.key(0), 4000))
        >>> bool(abs(draws.mean() - 3.0) < 0.2)
        True
    """
    return Reparam(smooth)


def is_floating(value: Any) -> bool:
    """Whether every leaf of a value is a float."""
    return all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(value))
