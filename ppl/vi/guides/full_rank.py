r"""Full-rank guides: one multivariate normal in R^n.

$u = m + s \odot (U \epsilon)$ with U unit lower triangular, so the Cholesky factor of the covariance is diag(s) U;
$\log q(u) = -\sum_i \log s_i + \log N(\epsilon)$. Elements of U are of the order of correlations, whatever the scales.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ppl.semantics.program import Program
from ppl.semantics.site import user_source
from ppl.typing import PRNGKey
from ppl.vi.guides.guide import Guide, Params
from ppl.vi.guides.joint import log_standard_normal


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Triangular:
    """A multivariate normal by its Cholesky factor.

    Attributes:
        mean: Shape `(dim,)`.
        log_scale: Logs of the factor's diagonal, shape `(dim,)`.
        lower: What lies below the diagonal, each row in units of its diagonal; shape `(dim, dim)`. The rest of the
            matrix does not matter.
    """

    mean: Any
    log_scale: Any
    lower: Any

    @property
    def noise(self) -> int:
        """One normal an element."""
        return self.mean.shape[0]

    @property
    def scale_tril(self) -> Float[Array, "dim dim"]:
        """The Cholesky factor of the covariance."""
        return jnp.exp(self.log_scale)[:, None] * (jnp.tril(self.lower, -1) + jnp.eye(self.noise))

    @property
    def sd(self) -> Float[Array, "dim"]:
        """The standard deviations."""
        return jnp.sqrt(jnp.sum(self.scale_tril**2, axis=1))

    def forward(self, noise: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Float[Array, ""]]:
        """The affine map of the noise, and its log Jacobian determinant (nats)."""
        vector = self.mean + jnp.exp(self.log_scale) * (noise + jnp.tril(self.lower, -1) @ noise)
        return vector, jnp.sum(self.log_scale)

    def inverse(self, vector: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Float[Array, ""]]:
        """The noise of a point, and the log Jacobian determinant of the map there (nats)."""
        scaled = (vector - self.mean) / jnp.exp(self.log_scale)
        noise = solve_triangular(self.lower, scaled, lower=True, unit_diagonal=True)
        return noise, jnp.sum(self.log_scale)

    def drawn(self, noise: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Float[Array, ""]]:
        """The draw made of the noise, with its log density (nats)."""
        vector, log_det = self.forward(noise)
        return vector, log_standard_normal(noise) - log_det

    def log_prob(self, vector: Float[Array, "dim"]) -> Float[Array, ""]:
        """Log density (nats)."""
        noise, log_det = self.inverse(vector)
        return log_standard_normal(noise) - log_det


def factor_params(mean: Float[Array, "dim"], scale_tril: Float[Array, "dim dim"]) -> Params:
    """The parameters of the normal with this mean and Cholesky factor of the covariance."""
    diagonal = jnp.diagonal(scale_tril)
    return {"mean": mean, "log_scale": jnp.log(diagonal), "lower": jnp.tril(scale_tril, -1) / diagonal[:, None]}


@dataclass(frozen=True)
class FullRank:
    """Multivariate normals with parameters `mean`, `log_scale` and `lower`.

    Attributes:
        sd: The standard deviation to start from.
    """

    sd: float = 0.1

    def init(self, key: PRNGKey, mean: Float[Array, "dim"]) -> Params:
        """About a point, uncorrelated."""
        del key
        return factor_params(mean, self.sd * jnp.eye(mean.shape[0]))

    def law(self, params: Params) -> Triangular:
        """The normal."""
        return Triangular(params["mean"], params["log_scale"], params["lower"])


def full_rank(program: Program, *, sticking: bool = False) -> Guide:
    """One multivariate normal in R^n over all continuous choices.

    Args:
        program: The model; finite choices get categoricals of their own, independent of the rest.
        sticking: Leave the score term, whose mean is zero, out of the ELBO's gradient (see `mean_field`).

    Returns:
        A guide with parameters `mean`, `log_scale` and `lower`: dim (dim + 3) / 2 numbers.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def model():
        ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.LogNormal(x, 1.0))
        >>> guide = vi.guides.full_rank(model())
        >>> guide.law(guide.init(0)).scale_tril.shape
        (2, 2)

    Reference:
        Kucukelbir et al., "Automatic differentiation variational inference", JMLR 18 (2017), section 2.4.
    """
    return Guide(program, FullRank(), sticking, user_source())
