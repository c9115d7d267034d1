r"""Low-rank guides: a multivariate normal in R^n whose covariance is diagonal plus low rank.

$u = m + s \odot (\epsilon + W \eta)$ with W of shape (dim, rank), so the covariance is
$\mathrm{diag}(s) (I + W W^T) \mathrm{diag}(s)$. Its density costs rank^2 dim: with $C C^T = I + W^T W$ and
$v = (u - m) / s$,

    log q(u) = -1/2 (|v|^2 - |C^-1 W^T v|^2) - sum log s - sum log diag C - dim/2 log 2 pi
"""

import math
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LowRankNormal:
    """A multivariate normal with covariance diag(s) (I + W W^T) diag(s).

    Attributes:
        mean: Shape `(dim,)`.
        log_scale: The logs of s, shape `(dim,)`.
        factor: W, shape `(dim, rank)`.
    """

    mean: Any
    log_scale: Any
    factor: Any

    @property
    def noise(self) -> int:
        """One normal an element, and one a rank."""
        return sum(self.factor.shape)

    @property
    def sd(self) -> Float[Array, "dim"]:
        """The standard deviations."""
        return jnp.exp(self.log_scale) * jnp.sqrt(1.0 + jnp.sum(self.factor**2, axis=1))

    def drawn(self, noise: Float[Array, "noise"]) -> tuple[Float[Array, "dim"], Float[Array, ""]]:
        """The draw made of the noise, with its log density (nats)."""
        dim = self.mean.shape[0]
        scaled = noise[:dim] + self.factor @ noise[dim:]
        return self.mean + jnp.exp(self.log_scale) * scaled, self._log_density(scaled)

    def log_prob(self, vector: Float[Array, "dim"]) -> Float[Array, ""]:
        """Log density (nats)."""
        return self._log_density((vector - self.mean) / jnp.exp(self.log_scale))

    def _log_density(self, scaled: Float[Array, "dim"]) -> Float[Array, ""]:
        dim, rank = self.factor.shape
        root = jnp.linalg.cholesky(jnp.eye(rank) + self.factor.T @ self.factor)
        inner = solve_triangular(root, self.factor.T @ scaled, lower=True)
        square = jnp.sum(scaled**2) - jnp.sum(inner**2)
        log_det = jnp.sum(self.log_scale) + jnp.sum(jnp.log(jnp.diagonal(root)))
        return -0.5 * square - log_det - 0.5 * dim * math.log(2 * math.pi)


@dataclass(frozen=True)
class LowRank:
    """Normals with parameters `mean`, `log_scale` and `factor`.

    Attributes:
        rank: The number of columns of the factor.
        sd: The standard deviation to start from.
    """

    rank: int
    sd: float = 0.1

    def init(self, key: PRNGKey, mean: Float[Array, "dim"]) -> Params:
        """About a point. The factor starts small and random: zero is a saddle point of every objective."""
        factor = 0.1 * jax.random.normal(key, (mean.shape[0], self.rank))
        return {"mean": mean, "log_scale": jnp.full_like(mean, jnp.log(self.sd)), "factor": factor}

    def law(self, params: Params) -> LowRankNormal:
        """The normal."""
        return LowRankNormal(params["mean"], params["log_scale"], params["factor"])


def low_rank(program: Program, rank: int, *, sticking: bool = False) -> Guide:
    """A multivariate normal in R^n whose covariance is diagonal plus one of low rank.

    Args:
        program: The model; finite choices get categoricals of their own, independent of the rest.
        rank: How many directions of correlation there are.
        sticking: Leave the score term, whose mean is zero, out of the ELBO's gradient (see `mean_field`).

    Returns:
        A guide with parameters `mean`, `log_scale` and `factor`.

    Raises:
        ValueError: the rank is not positive.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def model():
        ...     ppl.sample("x", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
        >>> guide = vi.guides.low_rank(model(), 2)
        >>> guide.init(0)["factor"].shape
        (20, 2)

    Reference:
        Ong, Nott, Smith, "Gaussian variational approximation with a factor covariance structure", JCGS 27 (2018).
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}.\nExpected: at least 1; for no correlations, vi.guides.mean_field(program).")
    return Guide(program, LowRank(rank), sticking, user_source())
