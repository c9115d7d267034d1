"""Names for the arrays that cross the floors of the package, with one vocabulary of dimensions.

The dimension names mean the same everywhere: `particles` (a population), `chains` and `draws` (a posterior's
leading axes), `dim` (a flat unconstrained vector), `outcomes` (the points of a finite measure), `cells` (the
finitely many behaviours of a resampler). Densities and weights are natural logarithms (nats) unless a name
says otherwise. Floating types are left open: float32 by default, float64 where the user turned it on.

It holds no behaviour: only aliases that jaxtyping and beartype check in the tests.
"""

from typing import Any, TypeAlias

from jaxtyping import Array, Bool, Float, Int, Int32, Key, Shaped

PRNGKey: TypeAlias = Key[Array, ""]
"""One typed JAX key, as `jax.random.key` makes it."""

LogDensity: TypeAlias = Float[Array, ""]
"""A log density or a log weight of one trace (nats)."""

LogWeights: TypeAlias = Float[Array, "particles"]
"""Unnormalised log weights of a population (nats); `-inf` is weight zero."""

BatchedLogWeights: TypeAlias = Float[Array, "*batch particles"]
"""Populations side by side; the particles are the last axis."""

Uniforms: TypeAlias = Float[Array, "n"]
"""Numbers in [0, 1), one for each of the n positions that are filled."""

Ancestors: TypeAlias = Int32[Array, "n"]
"""For each of the n positions, the index of the particle that it copies."""

Mask: TypeAlias = Bool[Array, "..."]
"""True where something counts."""

Value: TypeAlias = Shaped[Array, "..."]
"""The value of one site."""

Choices: TypeAlias = dict[str, Any]
"""Values by address (nested with `/`); each value is an array or a pytree of arrays."""

Draws: TypeAlias = Float[Array, "chains draws *event"]
"""Draws of one site: chains, then draws, then the shape of the site."""

Index: TypeAlias = Int[Array, ""]
"""One index."""
