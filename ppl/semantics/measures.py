"""What `ppl.sample` accepts as a measure, and what a value drawn from it looks like.

A measure is a pytree with `sample(key, sample_shape=())` and `log_prob(value)`: every NumPyro distribution, and every
object of the user's own that has the two methods. A value is one array, or a dict of arrays whose keys extend the
address.
"""

from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import ShapedArray

from ppl.distributions.drawn import law_of_draws
from ppl.errors import MeasureError
from ppl.semantics.site import Source


@runtime_checkable
class Measure(Protocol):
    """An object that can be drawn from and that has a density; a pytree whose leaves are arrays."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw one value."""
        ...

    def log_prob(self, value: Any) -> Any:
        """Log density of a value (batch-shaped), in nats."""
        ...


@runtime_checkable
class DeclaredValue(Protocol):
    """A measure that says what its values look like; others are found out by an abstract draw."""

    def value_like(self) -> Any:
        """A pytree of `jax.ShapeDtypeStruct`."""
        ...


def check_measure(measure: Any, address: str, source: Source) -> None:
    """Raise a `MeasureError` for an object that is not a measure."""
    if isinstance(measure, type):
        raise MeasureError(
            f"The site {address!r} at {source} was given the class {measure.__name__}, not a distribution.\n"
            f"Expected: an instance, for example {measure.__name__}(...)."
        )
    if not isinstance(measure, Measure):
        raise MeasureError(
            f"The site {address!r} at {source} was given {type(measure).__name__!r} ({_shorten(measure)}).\n"
            "Expected: a distribution of ppl.distributions, a Program, or a pytree with sample(key) and "
            f"log_prob(value).{_call_hint(measure)}"
        )
    for leaf in jax.tree.leaves(measure):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex | bool):
            raise MeasureError(
                f"The measure {type(measure).__name__} of the site {address!r} at {source} holds a leaf of type "
                f"{type(leaf).__name__!r}.\n"
                "Expected: array leaves. Register the class as a pytree whose non-array fields are auxiliary data."
            )


def value_avals(measure: Any) -> tuple[tuple[Any, ...], Any]:
    """The avals of the leaves of one draw, and their tree."""
    if isinstance(measure, DeclaredValue):
        declared, value_tree = jax.tree.flatten(measure.value_like())
        return tuple(ShapedArray(leaf.shape, leaf.dtype) for leaf in declared), value_tree
    leaves, tree = jax.tree.flatten(measure)
    known = tuple(leaf if isinstance(leaf, int | float | bool | complex) else None for leaf in leaves)
    avals = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    try:
        return _value_avals(tree, known, avals, jax.config.read("jax_enable_x64"))
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _value_avals.__wrapped__(tree, known, avals, jax.config.read("jax_enable_x64"))


@lru_cache(maxsize=4096)
def _value_avals(tree: Any, known: tuple[Any, ...], avals: tuple[Any, ...], _: object) -> tuple[tuple[Any, ...], Any]:
    def draw(key: Any, *leaves: Any) -> Any:
        merged = [leaf if constant is None else constant for leaf, constant in zip(leaves, known, strict=True)]
        return law_of_draws(jax.tree.unflatten(tree, merged)).sample(key)

    shape = jax.eval_shape(draw, jax.eval_shape(jax.random.key, 0), *avals)
    leaves, value_tree = jax.tree.flatten(shape)
    return tuple(ShapedArray(leaf.shape, leaf.dtype) for leaf in leaves), value_tree


def batch_shape(measure: Any) -> tuple[int, ...]:
    """The batch shape of a distribution; empty for measures that have none."""
    return tuple(getattr(measure, "batch_shape", ()))


def expand(measure: Any, shape: tuple[int, ...], address: str, source: Source) -> Any:
    """A distribution with a larger batch shape, as plates need it."""
    if not isinstance(measure, dist.Distribution):
        raise MeasureError(
            f"The site {address!r} at {source} stands inside a plate, but its measure {type(measure).__name__} has no "
            "batch shape to expand.\nUse ppl.vmap for measures that are not distributions."
        )
    return measure.expand(shape)


_WRAPPERS = ("ExpandedDistribution", "Independent", "MaskedDistribution", "Scaled")


def name_of(measure_tree: Any) -> str:
    """The class name of the measure behind a treedef, without the wrappers of plates and masks."""
    data = measure_tree.node_data()
    if data is None:
        return "value"
    name = getattr(data[0], "__name__", str(data[0]))
    children = measure_tree.children()
    return name_of(children[0]) if name in _WRAPPERS and children else name


def addresses(site_address: str, value_tree: Any) -> list[str]:
    """The addresses of a site's value: its own for one array, `address/key` for a dict."""
    skeleton = jax.tree.unflatten(value_tree, [0] * value_tree.num_leaves)
    paths = jax.tree_util.tree_flatten_with_path(skeleton)[0]
    return [join(site_address, *(_key_name(key) for key in path)) for path, _ in paths]


def join(*parts: str) -> str:
    """Join address parts with `/`, without empty ones."""
    return "/".join(part for part in parts if part)


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _call_hint(measure: Any) -> str:
    name = getattr(measure, "__name__", None)
    return f" It can be called: did you mean {name}(...)?" if callable(measure) and name else ""


def _shorten(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."
