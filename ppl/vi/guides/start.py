"""Where a guide starts: the first of many points of R^n whose log density is finite, with a finite gradient.

The points are uniform about the origin, in cubes of several widths in turn; finite choices are drawn uniformly. All in
one loop on the device, so that starts for several keys can be made by `vmap`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from ppl.errors import DegenerateWeightsError
from ppl.inference.data_checks import density_table
from ppl.semantics.protocol import Choices
from ppl.typing import PRNGKey
from ppl.vi.guides.latents import Latents

LOOKS = 4096
"""How many points are looked at."""
WIDTHS = (1.0, 2.0, 0.1, 10.0)
"""Half-widths of the cubes, in turn."""


def start(latents: Latents, key: PRNGKey) -> Float[Array, "dim"]:
    """A point of finite log density and gradient.

    Args:
        latents: The choices of a program.
        key: A JAX key.

    Raises:
        DegenerateWeightsError: there is none among those looked at (told where the key is not traced).
    """
    found, vector, finite = _first_sound(latents, key)
    if not isinstance(found, Tracer) and not bool(found):
        choices = {**latents.push(vector, finite)[0], **finite, **latents.standing_in()}
        raise DegenerateWeightsError(
            f"None of {LOOKS} points of {latents.program.name!r} had a finite log density with a finite gradient.\n"
            f"Log density by site at one of them:\n{density_table(latents.program, choices)}\n"
            "Fix: check the marked sites (data outside the support, a scale that under- or overflows), or start from "
            "parameters of your own."
        )
    return vector


@jax.jit
def _first_sound(latents: Latents, key: PRNGKey) -> tuple[Any, Any, Any]:
    def look(index: Any) -> tuple[Any, Any, Any]:
        vector, finite = _candidate(latents, jax.random.fold_in(key, index), index)
        height, gradient = jax.value_and_grad(latents.log_density)(vector, finite)
        return jnp.isfinite(height) & jnp.all(jnp.isfinite(gradient)), vector, finite

    def again(carry: Any) -> Any:
        return carry[0] + 1, look(carry[0] + 1)

    first = jnp.int32(0), look(jnp.int32(0))
    return lax.while_loop(lambda carry: (carry[0] < LOOKS) & ~carry[1][0], again, first)[1]


def _candidate(latents: Latents, key: PRNGKey, index: Any) -> tuple[Float[Array, "dim"], Choices]:
    layout, sites = latents.layout, latents.program.sites
    own, *keys = jax.random.split(key, len(layout.finite) + 1)
    width = jnp.array(WIDTHS)[index % len(WIDTHS)]
    finite = {
        address: jax.random.randint(key, sites[address].shape, 0, size).astype(sites[address].dtype)
        for (address, size), key in zip(layout.finite.items(), keys, strict=True)
    }
    return width * jax.random.uniform(own, (layout.dim,), minval=-1.0, maxval=1.0), finite
