"""One NumPyro site as sites of ours: distributions made to fit their values, and densities that draws do not follow.

Law: the log densities of the sites written for a NumPyro message sum to what `numpyro.infer.util.log_density` counts
for it. It knows nothing of handlers and control flow: those are in `numpyro_models` and `numpyro_loops`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped
from numpyro.distributions.distribution import Unit

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.scaled import Scaled
from ppl.semantics import scope
from ppl.semantics.binding import bind_sample, full_address
from ppl.semantics.language import factor, sample
from ppl.semantics.site import PlateFrame, Site, user_source


class NumpyroSite(NamedTuple):
    """A NumPyro `sample` message after all handlers.

    `value` is None for a latent choice; one that is not `is_observed` was substituted. `frames` are its plates.
    """

    name: str
    fn: dist.Distribution
    value: Any
    is_observed: bool
    scale: Any
    frames: tuple[PlateFrame, ...]


class Observable(dist.Distribution):
    """A density with draws from elsewhere: for observed sites whose own draws are missing or of another dtype."""

    arg_constraints = {}
    pytree_data_fields = ("base_dist", "draws")
    pytree_aux_fields = ("dtype",)

    def __init__(self, base_dist: dist.Distribution, draws: dist.Distribution, dtype: Any) -> None:
        self.base_dist, self.draws, self.dtype = base_dist, draws, dtype
        super().__init__(base_dist.batch_shape, base_dist.event_shape)

    @property
    def support(self) -> Any:
        """The support of the density."""
        return self.base_dist.support

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Shaped[Array, "..."]:
        """Draw from `draws`, in the dtype of the observation."""
        return jnp.asarray(self.draws.sample(key, sample_shape), self.dtype)

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Float[Array, "..."]:
        """The density's log (nats), batch-shaped."""
        del intermediates
        return jnp.asarray(self.base_dist.log_prob(value))


def emit(site: NumpyroSite) -> Any:
    """Write a NumPyro site into the model being traced; returns its value."""
    if _is_unit(site.fn):
        return _emit_factor(site)
    if site.value is None:
        return _emit_latent(site)
    fn, value = _fitted(site.fn, site.value)
    measure = _scaled(_observable(fn, value), site.scale)
    source, kind = user_source(), "observed" if site.is_observed else "fixed"
    bind_sample(Site(full_address(site.name, source), kind, source, site.frames), measure, _present(fn, value))
    return site.value


def _emit_factor(site: NumpyroSite) -> Any:
    value = site.fn.sample(None) if site.value is None else site.value
    factor(site.name, jnp.sum(_scaled(site.fn, site.scale).log_prob(value)))
    return value


def _emit_latent(site: NumpyroSite) -> Any:
    with _plates(site.frames):
        return sample(site.name, _scaled(site.fn, site.scale))


def _is_unit(fn: dist.Distribution) -> bool:
    """Whether a distribution is the trivial one of `numpyro.factor`, whatever has been wrapped around it."""
    while isinstance(fn, dist.ExpandedDistribution | dist.MaskedDistribution | dist.Independent):
        fn = fn.base_dist
    return isinstance(fn, Unit)


def _plates(frames: tuple[PlateFrame, ...]) -> Any:
    """Name the batch dimensions; the distribution has been expanded and scaled by NumPyro's plates already."""
    return scope.entered(scope.current()._replace(plates=frames))


def _scaled(fn: dist.Distribution, scale: Any) -> dist.Distribution:
    """Scale a log density as NumPyro does: `sum(scale * log_prob)`, whatever the two shapes broadcast to."""
    if scale is None or (isinstance(scale, int | float) and scale == 1):
        return fn
    return Scaled(fn, _summed_to(scale, fn.batch_shape))


def _summed_to(scale: Any, batch: tuple[int, ...]) -> Any:
    """Sum a scale over the axes that the batch shape lacks: sum(s * l) is unchanged where l is constant along them."""
    full = lax.broadcast_shapes(jnp.shape(scale), batch)
    if full == batch:
        return scale
    wide, lead = jnp.broadcast_to(scale, full), len(full) - len(batch)
    narrow = tuple(lead + i for i, size in enumerate(batch) if size != full[lead + i])
    return jnp.sum(jnp.sum(wide, axis=narrow, keepdims=True), axis=tuple(range(lead)))


def _fitted(fn: dist.Distribution, value: Any) -> tuple[dist.Distribution, Any]:
    """Broadcast a distribution and its value against each other, as `log_prob` would; mismatches are left alone."""
    shape, event = jnp.shape(value), fn.event_shape
    lead = len(shape) - len(event)
    if lead < 0 or shape[lead:] != event:
        return fn, value
    try:
        batch = lax.broadcast_shapes(fn.batch_shape, shape[:lead])
    except ValueError:
        return fn, value
    full = (*batch, *event)
    return fn.expand(batch), value if shape == full else jnp.broadcast_to(value, full)


def _observable(fn: dist.Distribution, value: Any) -> dist.Distribution:
    """Give an observed site draws in the dtype of its value (float data of a count), and draws where it has none."""
    drawn = law_of_draws(fn)
    own = jax.eval_shape(drawn.sample, jax.random.key(0)).dtype
    dtype = jnp.result_type(value)
    if jnp.issubdtype(dtype, jnp.floating) and not jnp.issubdtype(own, jnp.floating):
        return Observable(fn, drawn, jnp.dtype(dtype))
    return fn if drawn is fn else Observable(fn, drawn, own)


def _present(fn: dist.Distribution, value: Any) -> Any:
    """Replace masked-out entries (often NaN) by a point of the support: they count for nothing."""
    masked = fn.base_dist if isinstance(fn, dist.ExpandedDistribution) else fn
    if not isinstance(masked, dist.MaskedDistribution) or isinstance(masked._mask, bool) or fn.support is None:
        return value
    try:
        feasible = fn.support.feasible_like(jnp.asarray(value))
    except NotImplementedError:
        return value
    mask = jnp.broadcast_to(masked._mask, fn.batch_shape).reshape(fn.batch_shape + (1,) * fn.event_dim)
    return jnp.where(mask, value, feasible)
