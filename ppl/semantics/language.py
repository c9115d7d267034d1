"""The language: what users write inside a model.

Each function only *binds* a primitive into the jaxpr that is being traced; it draws and scores nothing. Control flow is
JAX's own, except `vmap`, which must draw once per lane.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from ppl.semantics import scope
from ppl.semantics.binding import bind_sample, full_address
from ppl.semantics.jaxpr import deterministic_p, factor_p
from ppl.semantics.measures import batch_shape, check_measure
from ppl.semantics.plates import expanded
from ppl.semantics.site import Site, Source, user_source


@runtime_checkable
class Inlined(Protocol):
    """A measure that is itself a program: sampling it places its sites under the address."""

    def inline(self, address: str, obs: Any, source: Source) -> Any:
        """Bind the program's sites in the model being traced and return the program's value."""
        ...


def sample(address: str, measure: Any, *, obs: Any = None, grad: Any = None) -> Any:
    """Make a random choice, or observe one.

    Args:
        address: The name of the choice, unique in the model; parts are nested with `/`.
        measure: A distribution, a `Program` (its addresses nest under `address/`), or any pytree with `sample(key)` and
            `log_prob(value)`.
        obs: The observed value, shaped as a draw; None for a latent choice. For a `Program`: a dict of its choices.
        grad: The gradient strategy of the choice in a variational objective.

    Returns:
        The value of the choice (for a `Program`: its return value).

    Raises:
        MeasureError, ShapeError, DtypeError, NaNError: with the address and the line of this call.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def coin(y):
        ...     p = ppl.sample("p", dist.Beta(2.0, 3.0))
        ...     ppl.sample("y", dist.Bernoulli(p), obs=y)
        >>> list(coin(jax.numpy.array(1)).simulate(jax.random.key(0)).choices)
        ['p']
    """
    source = user_source()
    full = full_address(address, source)
    if isinstance(measure, Inlined):
        return measure.inline(address, obs, source)
    check_measure(measure, full, source)
    frames = scope.current().plates
    measure = _iid(expanded(measure, frames, full, source), obs)
    kind = "latent" if obs is None else "observed"
    return bind_sample(Site(full, kind, source, frames, grad), measure, obs)


def factor(address: str, log_weight: Any) -> None:
    """Multiply the measure by `exp(log_weight)`.

    Args:
        address: The name of the factor.
        log_weight: A log weight in nats, an array of them (their sum counts), or minus infinity.
    """
    source = user_source()
    value = jnp.asarray(log_weight)
    full = full_address(address, source)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(jnp.result_type(float))
    factor_p.bind(value, site=Site(full, "factor", source, scope.current().plates))


def deterministic(address: str, value: Any) -> Any:
    """Record a value under an address in every trace; returns it unchanged."""
    source = user_source()
    leaves, tree = jax.tree.flatten(value)
    site = Site(full_address(address, source), "deterministic", source, scope.current().plates)
    deterministic_p.bind(*leaves, site=site, value_tree=tree)
    return value


def _iid(measure: Any, obs: Any) -> Any:
    """A scalar-batch distribution observed with an array of draws stands for independent copies."""
    if obs is None or batch_shape(measure) or not hasattr(measure, "event_shape"):
        return measure
    shape, event = jnp.shape(obs), tuple(measure.event_shape)
    lead = len(shape) - len(event)
    if lead <= 0 or shape[lead:] != event:
        return measure
    return measure.expand(shape[:lead])
