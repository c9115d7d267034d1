r"""Laplace's approximation: the normal in R^n with the mode and the curvature of the log density there.

$u \sim N(\hat u, H^{-1})$, H minus the Hessian of the log density in R^n (the Jacobian included) at its mode. Exact
where the posterior is normal in R^n. The way up is by L-BFGS, the end of it by Newton's method, on the host in
double precision (gradients are in the program's).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppl.errors import ConvergenceError
from ppl.numerics.lbfgs_path import Height, path
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.site import Source, user_source
from ppl.typing import PRNGKey
from ppl.vi.guides.full_rank import FullRank, Triangular, factor_params
from ppl.vi.guides.guide import Guide, Params
from ppl.vi.guides.latents import Latents
from ppl.vi.guides.map import refuse_finite
from ppl.vi.guides.start import start

NEWTON = 20
"""The most Newton steps."""
TIGHT, LOOSE = 1e-4, 1e-2
"""Distances from the mode, in posterior standard deviations: at which Newton's method stops, and which it may leave."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Laplace:
    """The guide of `vi.guides.laplace`; a pytree.

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

    @property
    def guide(self) -> Guide:
        """The full-rank guide with the same parameters."""
        return Guide(self.program, FullRank(), False, self.source)  # noqa: FBT003

    def fit(self, key: PRNGKey | int) -> Params:
        """Climb from a point of finite density to the mode, and take the curvature there.

        Args:
            key: A JAX key (or an int seed): where to start.

        Returns:
            The parameters `mean`, `log_scale` and `lower`, those of `vi.guides.full_rank`.

        Raises:
            ConvergenceError: no mode was reached, or the log density is not curved downwards in every direction there.
            DegenerateWeightsError: no point of finite density was found.
        """
        latents = self.latents
        beginning = start(latents, as_key(key))
        mode, root = _polished(latents, _climbed(latents, beginning))
        identity = np.eye(len(mode))
        # H = R R^T gives the covariance R^-T R^-1; its lower Cholesky factor by a Cholesky factorisation of that.
        inverse = np.linalg.solve(root, identity)
        factor = np.linalg.cholesky(inverse.T @ inverse)
        dtype = beginning.dtype
        return factor_params(jnp.asarray(mode, dtype), jnp.asarray(factor, dtype))

    def init(self, key: PRNGKey | int) -> Params:
        """The same as `fit`."""
        return self.fit(key)

    def law(self, params: Params) -> Triangular:
        """The normal in R^n."""
        return self.guide.law(params)

    def __call__(self, params: Params, *args: Any) -> Program:
        """The guide at some parameters, as a program."""
        return self.guide(params, *args)

    def draws(self, params: Params, key: PRNGKey | int, draws: int) -> tuple[Any, Float[Array, "draws"]]:
        """Independent draws by address, and their log densities (nats)."""
        return self.guide.draws(params, key, draws)


def _climbed(latents: Latents, beginning: Any) -> np.ndarray:
    """The end of the way uphill by L-BFGS."""

    def evaluated(vector: np.ndarray) -> tuple[float, np.ndarray]:
        height, gradient = _height_and_slope(latents, jnp.asarray(vector, beginning.dtype))
        return float(height), np.asarray(gradient, np.float64)

    position = np.asarray(beginning, np.float64)
    highest = Height(position, *evaluated(position))
    for here, _ in path(evaluated, highest):
        highest = here
    return highest.position


def _polished(latents: Latents, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mode by Newton's method, and the Cholesky factor of minus the Hessian there."""
    dtype, distance, root = jnp.result_type(float), np.inf, np.eye(len(position))
    for _ in range(NEWTON):
        numbers = _curvature(latents, jnp.asarray(position, dtype))
        height, gradient, hessian = (np.asarray(x, np.float64) for x in numbers)
        root = _factor(latents, position, -hessian)
        scaled = np.linalg.solve(root, gradient)
        step = np.linalg.solve(root.T, scaled)
        position = position + _damped(lambda x: _height(latents, jnp.asarray(x, dtype)), position, step, float(height))
        if (distance := float(np.linalg.norm(scaled))) < TIGHT:
            return position, root
    if distance < LOOSE:
        return position, root
    raise ConvergenceError(
        f"Newton's method on {latents.program.name!r} was still {distance:.3g} posterior standard deviations from the "
        f"mode after {NEWTON} steps.\nExpected: at most {LOOSE}.\n"
        "Likely causes: the log density has no mode in R^n (a funnel), or is not smooth.\n"
        "Fix: another seed, a reparametrised model (ppl.reparam), or vi.guides.full_rank."
    )


def _damped(height: Callable[[np.ndarray], Any], position: np.ndarray, step: np.ndarray, here: float) -> np.ndarray:
    """The step, halved until it does not lead downhill by more than rounding."""
    slack = 1e-5 * (1.0 + abs(here))
    for _ in range(30):
        if float(height(position + step)) >= here - slack:
            return step
        step = step / 2
    return step


def _factor(latents: Latents, position: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """The Cholesky factor of minus the Hessian, or an error that names the direction in which it is not positive."""
    try:
        return np.linalg.cholesky(curvature)
    except np.linalg.LinAlgError:
        if not np.isfinite(curvature).all():
            raise _no_mode(latents, "is not twice differentiable there", position) from None
        values, vectors = np.linalg.eigh(curvature)
        slot = _slot_of(latents, int(np.argmax(np.abs(vectors[:, 0]))))
        what = f"has curvature {-values[0]:.3g} (upwards or flat) there in a direction that is mostly {slot!r}"
        raise _no_mode(latents, what, position) from None


def _no_mode(latents: Latents, what: str, position: np.ndarray) -> ConvergenceError:
    return ConvergenceError(
        f"Laplace's approximation of {latents.program.name!r} came to the point\n  {np.array2string(position)}\n"
        f"of R^n; the log density {what}.\nExpected: a mode, curved downwards in every direction.\n"
        "Likely causes: a choice that the data and the prior leave undetermined, a density without a mode in R^n.\n"
        "Fix: another seed, a proper prior, or vi.guides.full_rank."
    )


def _slot_of(latents: Latents, index: int) -> str:
    return next(slot.address for slot in latents.layout.slots if slot.start <= index < slot.start + slot.size)


@jax.jit
def _height(latents: Latents, vector: Any) -> Any:
    return latents.log_density(vector, {})


@jax.jit
def _height_and_slope(latents: Latents, vector: Any) -> Any:
    return jax.value_and_grad(latents.log_density)(vector, {})


@jax.jit
def _curvature(latents: Latents, vector: Any) -> Any:
    height, gradient = jax.value_and_grad(latents.log_density)(vector, {})
    return height, gradient, jax.hessian(latents.log_density)(vector, {})


def laplace(program: Program) -> Laplace:
    """The normal in R^n with the mode of the log density and its curvature there.

    Args:
        program: The model; its latent choices are continuous.

    Returns:
        A guide; `guide.fit(key)` climbs to the mode, and `guide(params)` is a program like all others.

    Raises:
        MeasureError: a choice is discrete.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def model(y):
        ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        >>> guide = vi.guides.laplace(model(3.0))
        >>> round(float(guide.fit(0)["mean"][0]), 4)
        1.5

    Reference:
        Tierney, Kadane, "Accurate approximations for posterior moments and marginal densities", JASA 81 (1986).
    """
    refuse_finite(Latents(program), "Laplace's approximation")
    return Laplace(program, user_source())
