r"""Mean-field guides: independent normals in R^n.

$u = m + s \odot \epsilon$, $\log q(u) = -\sum_i \log s_i + \log N(\epsilon)$, s = exp(log_sd)
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.semantics.program import Program
from ppl.semantics.site import user_source
from ppl.typing import PRNGKey
from ppl.vi.guides.guide import Guide, Params
from ppl.vi.guides.joint import log_standard_normal


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Diagonal:
    """Independent normals.

    Attributes:
        mean: Shape `(dim,)`.
        log_sd: Logs of the standard deviations, shape `(dim,)`.
    """

    mean: Any
    log_sd: Any

    @property
    def noise(self) -> int:
        """One normal an element."""
        return self.mean.shape[0]

    @property
    def sd(self) -> Float[Array, "dim"]:
        """The standard deviations."""
        return jnp.exp(self.log_sd)

    def drawn(self, noise: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Float[Array, ""]]:
        """The draw made of the noise, with its log density (nats)."""
        return self.mean + self.sd * noise, log_standard_normal(noise) - jnp.sum(self.log_sd)

    def log_prob(self, vector: Float[Array, "dim"]) -> Float[Array, ""]:
        """Log density (nats)."""
        return log_standard_normal((vector - self.mean) / self.sd) - jnp.sum(self.log_sd)


@dataclass(frozen=True)
class MeanField:
    """Independent normals with parameters `mean` and `log_sd`.

    Attributes:
        sd: The standard deviation to start from.
    """

    sd: float = 0.1

    def init(self, key: PRNGKey, mean: Float[Array, "dim"]) -> Params:
        """About a point."""
        del key
        return {"mean": mean, "log_sd": jnp.full_like(mean, jnp.log(self.sd))}

    def law(self, params: Params) -> Diagonal:
        """The normals."""
        return Diagonal(params["mean"], params["log_sd"])


def mean_field(program: Program, *, sticking: bool = False) -> Guide:
    """Independent normals in R^n, one for each element of each continuous choice.

    Args:
        program: The model (bound to data of the right shapes); finite choices get categoricals of their own.
        sticking: Leave the score term, whose mean is zero, out of the ELBO's gradient: no variance at the optimum,
            where the guide can be exact. Biased in objectives in which log q does not enter linearly.

    Returns:
        A guide with parameters `mean` and `log_sd`, in R^n.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def model(y):
        ...     scale = ppl.sample("scale", dist.HalfNormal(1.0))
        ...     ppl.sample("y", dist.Normal(0.0, scale), obs=y)
        >>> guide = vi.guides.mean_field(model(2.0))
        >>> params = guide.init(0)
        >>> float(guide(params).simulate(0).choices["scale"]) > 0.0
        True

    Reference:
        Kucukelbir et al., "Automatic differentiation variational inference", JMLR 18 (2017), section 2.4.
    """
    return Guide(program, MeanField(), sticking, user_source())
