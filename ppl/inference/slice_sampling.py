r"""Slice sampling with stepping out and shrinkage, as a kernel: no step size to speak of, no gradient, no rejection.

Along a line $q + t d$ in R^n: draw a level below the log density, $l = \log p(q) - e$ with $e \sim$ Exponential(1);
place an interval of width w around t = 0 at random and step its ends out while they lie above the level, at most so
many steps, shared between the ends at random; then draw t from the interval, and shrink it towards 0 until
$\log p(q + t d) \ge l$. Law: the kernel leaves the program invariant, also where the steps are limited. Where the
shrinking is cut short (after 100 points) the state stays; since a sequence of rejected points is as likely from
either end, that keeps the balance.

All randomness of the loops is a function of one `Seed`, so that the kernel has a fixed set of sites.

Reference: Neal, "Slice sampling", Annals of Statistics 31 (2003), figures 3 and 5; section 5.1 for other directions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ppl.distributions.seed import Seed
from ppl.inference.flat import Flat
from ppl.inference.hamiltonian import moved_where, positive_number
from ppl.inference.kernels import Kernel, State
from ppl.inference.method import positive
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

DIRECTIONS = ("coordinates", "random")
MOST_SHRINKS = 100
"""Points tried on a slice before the state stays where it is."""


class Bracket(NamedTuple):
    """An interval of a line around t = 0, its last point, the log density there (nats), and the points tried."""

    low: Any
    high: Any
    point: Any
    log_density: Any
    tried: Any


@dataclass(frozen=True)
class Slice:
    """What `slice_sampling` makes: a maker of kernels, comparable by its settings."""

    width: float
    max_steps_out: int
    direction: str

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        _ = Flat(program).slots
        return partial(_kernel, self, program)


def slice_sampling(width: float = 1.0, max_steps_out: int = 32, direction: str = "coordinates") -> Slice:
    """Slice sampling of all choices of a program, which must be continuous.

    Args:
        width: The typical width of a slice in R^n; too small a one costs steps out, too large a one shrinks.
        max_steps_out: The most widths that an interval grows to.
        direction: "coordinates" moves each element in turn, the program's order; "random" moves all along one
            uniformly random direction.

    Returns:
        A maker of kernels. Each records `accepted` (whether anything moved), `log_density` in R^n (nats), and
        `evaluations` of the density.

    Raises:
        ValueError: a setting is out of range.
        MeasureError: from a program with discrete choices, or with choices that are not always made.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def income():
        ...     return ppl.sample("x", dist.LogNormal(3.0, 0.5))
        >>> step = slice_sampling()(income())(State({"x": jnp.array(20.0)}, {}))
        >>> sorted(step.sites)
        ['accepted', 'evaluations', 'log_density', 'seed']
    """
    positive_number("width", width)
    positive("max_steps_out", max_steps_out)
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}.\nExpected: one of {DIRECTIONS}.")
    return Slice(width, max_steps_out, direction)


def _kernel(maker: Slice, program: Program, state: State) -> Program:
    return Program.of(step, (program, state, maker))


def step(program: Program, state: State, maker: Slice, inside: Callable[[Any, Any], Any] = jnp.greater_equal) -> State:
    """The body of the kernel. `inside(log_density, level)` says what is on the slice (another is wrong, for tests)."""
    flat = Flat(program)
    key = seeded_key("seed")
    start = flat.vector(state.choices)

    def log_density(vector: Any) -> Any:
        return number_or_nothing(flat.log_density(vector))

    def along(index: Any, at: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        vector, value, count = at
        line_key, direction_key = jax.random.split(jax.random.fold_in(key, index))
        direction = _direction(maker, direction_key, index, flat.dim)
        found, more = on_line(
            line_key, lambda t: log_density(vector + t * direction), value, maker.max_steps_out, inside
        )
        return vector + found.point * direction, found.log_density, count + more

    lines = flat.dim if maker.direction == "coordinates" else min(1, flat.dim)
    end, value, count = lax.fori_loop(0, lines, along, (start, log_density(start), jnp.int32(1)))
    accepted = jnp.any(end != start)
    deterministic("accepted", accepted)
    deterministic("log_density", value)
    deterministic("evaluations", count)
    return moved_where(accepted, flat, state, end)


def seeded_key(address: str) -> PRNGKey:
    """A key that is a random choice of the kernel."""
    return jax.random.wrap_key_data(sample(address, Seed()), impl="threefry2x32")


def number_or_nothing(log_density: Float[Array, ""]) -> Float[Array, ""]:
    """The log density (nats), minus infinity where it is no number."""
    return jnp.where(jnp.isnan(log_density), -jnp.inf, log_density)


def _direction(maker: Slice, key: PRNGKey, index: Any, dim: int) -> Any:
    if maker.direction == "coordinates":
        return maker.width * (jnp.arange(dim) == index).astype(jnp.result_type(float))
    noise = jax.random.normal(key, (dim,))
    return maker.width * noise / jnp.linalg.norm(noise)


def on_line(
    key: PRNGKey,
    log_density: Callable[[Any], Any],
    value: Any,
    max_steps_out: int,
    inside: Callable[[Any, Any], Any] = jnp.greater_equal,
) -> tuple[Bracket, Any]:
    """One slice-sampling move from t = 0 on a line whose unit is the width.

    Args:
        key: For everything.
        log_density: Of t (nats), never NaN.
        value: At t = 0.
        max_steps_out: The most widths that the interval grows to.
        inside: Whether a log density is on the slice of a level.

    Returns:
        The last bracket (its point is 0 where nothing was found), and how many densities were evaluated.
    """
    level_key, place_key, shares_key, shrink_key = jax.random.split(key, 4)
    level = value - jax.random.exponential(level_key)
    low = -jax.random.uniform(place_key)
    # Neal's J and K: the end that has taken its share of the steps stops.
    share = jax.random.randint(shares_key, (), 0, max_steps_out)

    def on_slice(t: Any) -> Any:
        return inside(log_density(t), level)

    low, left = _stepped_out(low, -1.0, share, on_slice)
    high, right = _stepped_out(low + left + 1.0, 1.0, max_steps_out - 1 - share, on_slice)
    found = shrunk(shrink_key, Bracket(low, high, 0.0, value, 0), lambda t: t, log_density, lambda d: inside(d, level))
    return found, left + right + 2 + found.tried


def _stepped_out(end: Any, step: float, most: Any, is_inside: Callable[[Any], Any]) -> tuple[Any, Any]:
    """An end of the interval, moved by whole steps while it is on the slice; and how many."""

    def go_on(at: tuple[Any, Any]) -> Any:
        taken, on_slice = at
        return on_slice & (taken < most)

    def out(at: tuple[Any, Any]) -> tuple[Any, Any]:
        taken = at[0] + 1
        return taken, is_inside(end + step * taken)

    taken, _ = lax.while_loop(go_on, out, (jnp.int32(0), is_inside(end)))
    return end + step * taken, taken


def shrunk(
    key: PRNGKey,
    bracket: Bracket,
    place: Callable[[Any], Any],
    log_density: Callable[[Any], Any],
    is_inside: Callable[[Any], Any],
) -> Bracket:
    """Draw points of a bracket, shrinking it towards t = 0, until one is on the slice; t = 0 after 100.

    Args:
        key: For all draws.
        bracket: The ends, around 0; its log density is that at t = 0.
        place: From t to what `log_density` takes.
        log_density: Of a place (nats).
        is_inside: Whether a log density is on the slice.
    """
    dtype = jnp.result_type(float)
    low, high, _, start, _ = (jnp.asarray(x, dtype) for x in bracket)

    def draw(low: Any, high: Any, tried: Any) -> Bracket:
        uniform = jax.random.uniform(jax.random.fold_in(key, tried), dtype=dtype)
        point = low + uniform * (high - low)
        return Bracket(low, high, point, log_density(place(point)), tried + 1)

    def go_on(at: Bracket) -> Any:
        return ~is_inside(at.log_density) & (at.tried < MOST_SHRINKS)

    def shrink(at: Bracket) -> Bracket:
        low, high = jnp.where(at.point < 0, at.point, at.low), jnp.where(at.point < 0, at.high, at.point)
        return draw(low, high, at.tried)

    last = lax.while_loop(go_on, shrink, draw(low, high, jnp.int32(0)))
    found = is_inside(last.log_density)
    return last._replace(point=jnp.where(found, last.point, 0.0), log_density=jnp.where(found, last.log_density, start))
