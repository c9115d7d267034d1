"""The posterior mode as a guide: one point, so that the ELBO is the model's log density there.

    E_q[log p(x, y) - log q(x)] = log p(x, y),    q the point mass at x, whose density at x counts as 1

The mode is that of the density on the supports, without a Jacobian, so it depends on how the model is written. It is
one point and no approximation of a posterior: its log density is no lower bound of the evidence.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.errors import MeasureError
from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.site import Site, Source, user_source
from ppl.typing import PRNGKey
from ppl.vi.guides.guide import Params
from ppl.vi.guides.latents import Latents, told
from ppl.vi.guides.start import start


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Point:
    """The point mass at some choices; its density there counts as 1.

    Attributes:
        choices: The choices by address.
    """

    choices: Choices

    @property
    def has_rsample(self) -> bool:
        """The draw is the point."""
        return True

    def value_like(self) -> dict[str, Any]:
        """Shapes and dtypes of the choices."""
        return {a: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for a, x in self.choices.items()}

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Choices:
        """The point."""
        del key
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*sample_shape, *jnp.shape(x))), self.choices)

    def log_prob(self, value: Choices) -> Float[Array, ""]:
        """Zero nats at the point, minus infinity elsewhere."""
        same = [jnp.all(value[address] == x) for address, x in self.choices.items()]
        return jnp.where(jnp.all(jnp.stack(same)), 0.0, -jnp.inf)

    def unfolded(self, site: Site) -> tuple[Choices, Float[Array, ""]]:
        """No choice at all."""
        del site
        return self.choices, jnp.zeros(())


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PointGuide:
    """The guide of `vi.guides.map`; a pytree.

    Attributes:
        program: The model.
        source: Where the guide was made.
    """

    program: Program
    source: Source = field(metadata={"static": True})

    @property
    def latents(self) -> Latents:
        """The choices that it covers."""
        return Latents(self.program)

    def init(self, key: PRNGKey | int) -> Params:
        """A point of finite density, as a vector in R^n.

        Args:
            key: A JAX key (or an int seed).
        """
        return {"vector": start(self.latents, as_key(key))}

    def __call__(self, params: Params, *args: Any) -> Program:
        """The point at some parameters, as a program."""
        del args
        return Program.of(_point, (self, params))

    def choices(self, params: Params) -> Choices:
        """The choices on their supports."""
        return self.latents.push(params["vector"], {})[0]

    def draws(self, params: Params, key: PRNGKey | int, draws: int) -> tuple[Choices, Float[Array, "draws"]]:
        """Copies of the point, with log densities of zero (nats)."""
        return Point(self.choices(params)).sample(key, (draws,)), jnp.zeros(draws)


def _point(guide: PointGuide, params: Params) -> Choices:
    """The model behind the guide."""
    return bind_sample(Site("", "latent", guide.source), Point(guide.choices(params)))


def map(program: Program) -> PointGuide:
    """The posterior mode: a guide that is one point.

    Args:
        program: The model; its latent choices are continuous.

    Returns:
        A guide with the parameter `vector`, the point in R^n. `vi.elbo(program, guide)` is the log density there.

    Raises:
        MeasureError: a choice is discrete.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def model():
        ...     ppl.sample("x", dist.Gamma(3.0, 2.0))
        >>> guide = vi.guides.map(model())
        >>> at_mode = {"vector": jax.numpy.zeros(1)}  # log of (3 - 1) / 2
        >>> float(vi.elbo(model(), guide).grad(0, at_mode)["vector"][0])
        0.0
    """
    refuse_finite(Latents(program), "A mode")
    return PointGuide(program, user_source())


def refuse_finite(latents: Latents, what: str) -> None:
    """Raise where a program has finite choices.

    Raises:
        MeasureError: naming them.
    """
    infos = ch.latent_infos(latents.program.staged)
    if finite := latents.layout.finite:
        raise MeasureError(
            f"{what} in R^n was asked of {latents.program.name!r}, whose choices {told(infos, finite)} are discrete.\n"
            "Expected: continuous choices only.\nFix: sum the others out, program.marginal(addresses), both in the "
            "guide and in the objective."
        )
