"""A law on R^n as a measure over a program's continuous choices: one site over all of their addresses.

    log q(x) = log law(u) - log |det dx / du|,   x = x(u)

Drawn by `vi.simulate`, the law's density is computed at the draw from its noise, without a way back from x to u.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.measures import join
from ppl.semantics.protocol import Choices
from ppl.semantics.site import Site
from ppl.vi.guides.latents import Latents
from ppl.vi.pathwise import Reparam


@runtime_checkable
class Law(Protocol):
    """A law on R^n that is a smooth function of standard normal noise. Implementations are pytrees."""

    @property
    def noise(self) -> int:
        """The number of standard normals that one draw takes."""
        ...

    def drawn(self, noise: Float[Array, "noise"]) -> tuple[Float[Array, "dim"], Float[Array, ""]]:
        """The draw made of the noise, with its log density (nats)."""
        ...

    def log_prob(self, vector: Float[Array, "dim"]) -> Float[Array, ""]:
        """The log density at any point (nats)."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class StandardNormal:
    """Independent standard normals: noise, without parameters.

    Attributes:
        size: How many.
    """

    size: int = field(metadata={"static": True})

    def value_like(self) -> Any:
        """A vector."""
        return jax.ShapeDtypeStruct((self.size,), jnp.result_type(float))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*draws size"]:
        """Draw them."""
        return jax.random.normal(key, (*sample_shape, self.size))

    def log_prob(self, value: Float[Array, "size"]) -> Float[Array, ""]:
        """Log density (nats)."""
        return log_standard_normal(value)


def log_standard_normal(value: Float[Array, "size"]) -> Float[Array, ""]:
    """Log density of independent standard normals (nats)."""
    return -0.5 * jnp.sum(value**2) - 0.5 * value.shape[0] * math.log(2 * math.pi)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Vector:
    """A law as a measure whose values are vectors: what a strategy that needs a density is given."""

    law: Any
    dim: int = field(metadata={"static": True})

    def value_like(self) -> Any:
        return jax.ShapeDtypeStruct((self.dim,), jnp.result_type(float))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        assert not sample_shape
        return self.law.drawn(StandardNormal(self.law.noise).sample(key))[0]

    def log_prob(self, value: Any) -> Any:
        return self.law.log_prob(value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Pushed:
    """A law on R^n pushed to the supports of a program's continuous choices; its values are dicts by address.

    Attributes:
        law: The law on R^n.
        latents: The program's choices.
        finite: The values of the program's finite choices.
        sticking: Whether the density at a draw is differentiated through the draw alone (sticking the landing: Roeder,
            Wu, Duvenaud 2017). Unbiased where the guide's log density enters the objective linearly, as in the ELBO.
    """

    law: Any
    latents: Latents
    finite: Choices
    sticking: bool = field(default=False, metadata={"static": True})

    @property
    def has_rsample(self) -> bool:
        """Draws are differentiable functions of noise."""
        return True

    def value_like(self) -> dict[str, Any]:
        """Shapes and dtypes of the choices."""
        return ch.values_like(self.latents.program.staged, [slot.address for slot in self.latents.layout.slots])

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Choices:
        """Draw the choices."""
        if sample_shape:
            keys = jax.random.split(key, sample_shape)
            draw = self.sample
            for _ in sample_shape:
                draw = jax.vmap(draw)
            return draw(keys)
        return self.drawn(StandardNormal(self.law.noise).sample(key))[0]

    def log_prob(self, value: Choices) -> Float[Array, ""]:
        """Log density of the choices (nats); minus infinity outside their supports."""
        vector, log_det = self.latents.pull(value, self.finite)
        inside = jnp.all(jnp.isfinite(vector)) & jnp.isfinite(log_det)
        safe = jnp.where(inside, vector, jnp.zeros_like(vector))
        return jnp.where(inside, self.law.log_prob(safe) - jnp.where(inside, log_det, 0.0), -jnp.inf)

    def drawn(self, noise: Float[Array, "noise"]) -> tuple[Choices, Float[Array, ""]]:
        """The choices made of the noise, with their log density (nats)."""
        vector, log_q = self.law.drawn(noise)
        if self.sticking:
            log_q = lax.stop_gradient(self.law).log_prob(vector)
        choices, log_det = self.latents.push(vector, self.finite)
        return choices, log_q - log_det

    def unfolded(self, site: Site) -> tuple[Choices, Float[Array, ""]]:
        """Bind the noise, or the vector where another strategy than `vi.reparam()` was asked for."""
        if site.grad is None or isinstance(site.grad, Reparam):
            place = site._replace(address=join(site.address, "noise"), grad=None)
            return self.drawn(bind_sample(place, StandardNormal(self.law.noise)))
        place = site._replace(address=join(site.address, "vector"))
        vector = bind_sample(place, _Vector(self.law, self.latents.layout.dim))
        choices, log_det = self.latents.push(vector, self.finite)
        return choices, self.law.log_prob(vector) - log_det
