"""What an automatic guide is: a program's latent choices, and a family of laws on R^n for the continuous ones.

Finite choices are drawn first, each element from a categorical of its own (mean-field), whatever the family; then the
continuous ones, jointly.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppl.semantics.binding import bind_sample
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.site import Site, Source
from ppl.typing import PRNGKey
from ppl.vi.guides.joint import Pushed, StandardNormal
from ppl.vi.guides.latents import Latents
from ppl.vi.guides.start import start

Params = dict[str, Any]
"""Parameters by name; those of the finite choices are `"logits"`, by address."""


@runtime_checkable
class Family(Protocol):
    """A family of laws on R^n. Implementations are frozen dataclasses of numbers."""

    def init(self, key: PRNGKey, mean: Float[Array, "dim"]) -> Params:
        """Parameters of a law about a point."""
        ...

    def law(self, params: Params) -> Any:
        """The law (`ppl.vi.guides.joint.Law`) at some parameters."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Guide:
    """An automatic guide; a pytree. `guide(params)` is a program over all latent addresses of the model.

    Attributes:
        program: The model that it was made for; supports come from it.
        family: The family of laws on R^n.
        sticking: Whether the ELBO's gradient leaves out the score term, whose mean is zero.
        source: Where the guide was made.
    """

    program: Program
    family: Family = field(metadata={"static": True})
    sticking: bool = field(metadata={"static": True})
    source: Source = field(metadata={"static": True})

    @property
    def latents(self) -> Latents:
        """The choices that it covers."""
        return Latents(self.program)

    def init(self, key: PRNGKey | int) -> Params:
        """Parameters to start from: about a point of finite density, with standard deviation 0.1 in R^n.

        Args:
            key: A JAX key (or an int seed).

        Raises:
            DegenerateWeightsError: no such point was found.
        """
        place, own = jax.random.split(as_key(key))
        params = self.family.init(own, start(self.latents, place))
        logits = self._logits_like()
        return {**params, "logits": logits} if logits else params

    def _logits_like(self) -> dict[str, Any]:
        sites, finite = self.program.sites, self.latents.layout.finite
        return {a: jnp.zeros((*sites[a].shape, size)) for a, size in finite.items()}

    def law(self, params: Params) -> Any:
        """The law on R^n of the vector of continuous choices."""
        return self.family.law(params)

    def __call__(self, params: Params, *args: Any) -> Program:
        """The guide at some parameters, as a program.

        Args:
            params: The parameters.
            *args: The objective's further arguments; they do not matter here.
        """
        del args
        return Program.of(_drawn, (self, params))

    def draws(self, params: Params, key: PRNGKey | int, draws: int) -> tuple[Choices, Float[Array, "draws"]]:
        """Independent draws by address, with a leading axis, and their log densities (nats).

        Args:
            params: The parameters.
            key: A JAX key (or an int seed).
            draws: How many.
        """
        return _many(self, params, jax.random.split(as_key(key), draws))

    def pushed(self, params: Params, finite: Choices) -> Pushed:
        """The law of the continuous choices, given the finite ones."""
        return Pushed(self.law(params), self.latents, finite, self.sticking)


def _drawn(guide: Guide, params: Params) -> Choices:
    """The model behind a guide: a site for each finite choice, and one for all continuous ones."""
    finite = {a: bind_sample(Site(a, "latent", guide.source), law) for a, law in _categoricals(guide, params).items()}
    if not guide.latents.layout.slots:
        return finite
    return {**finite, **bind_sample(Site("", "latent", guide.source), guide.pushed(params, finite))}


def _categoricals(guide: Guide, params: Params) -> dict[str, Any]:
    return {a: dist.Categorical(logits=params["logits"][a]) for a in guide.latents.layout.finite}


@jax.jit
def _many(guide: Guide, params: Params, keys: Any) -> tuple[Choices, Any]:
    return jax.vmap(lambda key: _one(guide, params, key))(keys)


def _one(guide: Guide, params: Params, key: Any) -> tuple[Choices, Any]:
    laws = _categoricals(guide, params)
    own, *keys = jax.random.split(key, len(laws) + 1)
    finite = {a: law.sample(k) for (a, law), k in zip(laws.items(), keys, strict=True)}
    score = sum((jnp.sum(law.log_prob(finite[a])) for a, law in laws.items()), jnp.zeros(()))
    pushed = guide.pushed(params, finite)
    choices, log_q = pushed.drawn(StandardNormal(pushed.law.noise).sample(own))
    return {**finite, **choices}, score + log_q
