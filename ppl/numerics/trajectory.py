r"""Trees of leapfrog steps that stop where they turn back: the No-U-Turn trajectory, one leaf at a time.

A trajectory is doubled in a random direction until it turns or diverges; the next point is drawn from its leaves in
proportion to `exp(-energy)`: within a new half uniformly by weight, between halves in favour of the new one. It turns
where the summed momentum $\rho$ of a (sub)tree has no component along the momentum at one of its ends, or at the
joints of its halves. Momenta are standard normal: a metric is a change of coordinates, made by the caller
(`ppl.numerics.metric`).

Everything is written so that `leaf` can be the body of one flat loop: there is one gradient in it, no recursion, no
scatter, no LAPACK call and no large dot product, so that XLA:CPU makes native code of the loop.

References: Hoffman & Gelman (2014), *The No-U-Turn Sampler*; Betancourt (2017), *A conceptual introduction to
Hamiltonian Monte Carlo*, A.4 (multinomial and biased progressive sampling, generalised criterion); Phan, Pradhan,
Jankowiak (2019), *Composable effects ... in NumPyro*, Appendix A (the checkpoints of the iterative form). The checks at
the joints are those that Stan makes since version 2.21.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int

DIVERGENCE = 1000.0
"""A leaf whose energy exceeds the first one's by so many nats is a divergence."""

ValueAndGrad = Callable[[Any], tuple[Any, Any]]


class Point(NamedTuple):
    """A point of phase space, with the log density (nats) and its gradient at the position."""

    position: Float[Any, "dim"]
    momentum: Float[Any, "dim"]
    gradient: Float[Any, "dim"]
    log_density: Float[Any, ""]

    @property
    def energy(self) -> Any:
        """Potential and kinetic energy, in nats."""
        return 0.5 * _dot(self.momentum, self.momentum) - self.log_density


class Half(NamedTuple):
    """The subtree under construction, by which the tree is about to be doubled.

    The checkpoints hold, at row k, what is known of the last leaf whose number (without its last bit) has k bits set:
    its momentum, the momentum of the leaf before it, and the sum of momenta before it. They are the left ends of all
    complete subtrees of this half that end at an odd leaf.
    """

    frontier: Point
    direction: Float[Any, ""]
    leaf: Int[Any, ""]
    momentum_sum: Float[Any, "dim"]
    log_weight: Float[Any, ""]
    proposal: Point
    first: Float[Any, "dim"]
    previous: Float[Any, "dim"]
    firsts: Float[Any, "rows dim"]
    befores: Float[Any, "rows dim"]
    sums: Float[Any, "rows dim"]


class Tree(NamedTuple):
    """The trajectory so far.

    `energy` is that of its first point, `accepted` the sum over leaves of `min(1, exp(-energy error))`; `cut` says that
    it ended at the most doublings and would have gone on.
    """

    left: Point
    right: Point
    momentum_sum: Float[Any, "dim"]
    log_weight: Float[Any, ""]
    proposal: Point
    depth: Int[Any, ""]
    energy: Float[Any, ""]
    accepted: Float[Any, ""]
    leaves: Int[Any, ""]
    diverging: Bool[Any, ""]
    cut: Bool[Any, ""]
    finished: Bool[Any, ""]


Growth = tuple[Tree, Half]


def _dot(a: Any, b: Any) -> Any:
    return jnp.sum(a * b, axis=-1)


def select(flag: Any, yes: Any, no: Any) -> Any:
    """One of two pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


def leapfrog(value_and_grad: ValueAndGrad, point: Point, step: Any) -> Point:
    """One leapfrog step of unit-mass dynamics; a negative step goes back in time."""
    half = point.momentum + 0.5 * step * point.gradient
    position = point.position + step * half
    log_density, gradient = value_and_grad(position)
    return Point(position, half + 0.5 * step * gradient, gradient, log_density)


def turned(first: Any, last: Any, total: Any) -> Any:
    """Whether a stretch of trajectory with these end momenta and this sum of momenta has turned back."""
    return (_dot(first, total) <= 0) | (_dot(last, total) <= 0)


def plant(point: Point, forward: Any, most_doublings: int) -> Growth:
    """The tree of one point, about to be doubled forward or backward in time, with room for some doublings."""
    dim, dtype = point.position.shape[-1], point.log_density.dtype
    no, zero, nothing = jnp.zeros((), bool), jnp.zeros((), dtype), jnp.zeros(dim, dtype)
    none = jnp.zeros((), jnp.int32)
    tree = Tree(point, point, point.momentum, zero, point, none, point.energy, zero, none, no, no, no)
    rows = jnp.zeros((most_doublings + 1, dim), dtype)
    half = Half(point, zero, none, nothing, zero, point, nothing, nothing, rows, rows, rows)
    return tree, _next_half(tree, half, forward)


def _next_half(tree: Tree, half: Half, forward: Any) -> Half:
    return half._replace(
        frontier=select(forward, tree.right, tree.left),
        direction=jnp.where(forward, 1.0, -1.0).astype(half.direction.dtype),
        leaf=jnp.zeros_like(half.leaf),
        momentum_sum=jnp.zeros_like(half.momentum_sum),
        log_weight=jnp.full_like(half.log_weight, -jnp.inf),
    )


def leaf(
    value_and_grad: ValueAndGrad,
    step_size: Any,
    growth: Growth,
    noise: tuple[Any, Any, Any],
    most_doublings: Any,
    *,
    lockstep: bool,
) -> Growth:
    """Grow a tree by one leaf, and double it where its new half is complete.

    Args:
        value_and_grad: Log density and gradient of a position.
        step_size: Of the integrator, positive.
        growth: The tree and its half under construction.
        noise: Two uniform numbers in [0, 1) and a coin: for the proposal of the half, for that of the tree, and for
            the next direction. The last two are used only where the half is complete.
        most_doublings: When to stop in any case; at most those that `plant` made room for.
        lockstep: Whether many trees grow side by side under `vmap`; then all checks are made at once, without a loop.

    Returns:
        The grown tree; done where `finished`.
    """
    tree, half = growth
    within, between, forward = noise
    half, delta = _grown(half, leapfrog(value_and_grad, half.frontier, half.direction * step_size), tree, within)
    diverging = delta < -DIVERGENCE
    tree = tree._replace(accepted=tree.accepted + jnp.exp(jnp.minimum(delta, 0.0)), leaves=tree.leaves + 1)
    turning = _half_turned(half, lockstep=lockstep)
    whole = half.leaf == jnp.left_shift(jnp.int32(1), tree.depth)

    def double(growth: Growth) -> Growth:
        doubled = _doubled(*growth, ~(turning | diverging), between, most_doublings)._replace(diverging=diverging)
        return doubled, _next_half(doubled, growth[1], forward)

    return lax.cond(whole | turning | diverging, double, lambda growth: growth, (tree, half))


def _grown(half: Half, point: Point, tree: Tree, uniform: Any) -> tuple[Half, Any]:
    """The half with one more leaf, and the leaf's log weight relative to the start (nats)."""
    delta = tree.energy - point.energy
    delta = jnp.where(jnp.isnan(delta), -jnp.inf, delta)
    log_weight = jnp.logaddexp(half.log_weight, delta)
    # log(u) < log w - log W draws the new leaf with probability w / W; the first leaf is always drawn.
    take = (jnp.log(uniform) < delta - log_weight) | (half.leaf == 0)
    unused = half.firsts.shape[0] - 1
    row = jnp.where(half.leaf % 2 == 0, lax.population_count(half.leaf >> 1), unused)

    def put(rows: Any, value: Any) -> Any:
        return lax.dynamic_update_index_in_dim(rows, value, row, 0)

    return half._replace(
        frontier=point,
        leaf=half.leaf + 1,
        momentum_sum=half.momentum_sum + point.momentum,
        log_weight=log_weight,
        proposal=select(take, point, half.proposal),
        first=jnp.where(half.leaf == 0, point.momentum, half.first),
        previous=point.momentum,
        firsts=put(half.firsts, point.momentum),
        befores=put(half.befores, half.previous),
        sums=put(half.sums, half.momentum_sum),
    ), delta


def _half_turned(half: Half, *, lockstep: bool) -> Any:
    """Whether one of the complete subtrees that end at the last leaf has turned; they end at odd leaves only."""
    number = half.leaf - 1
    top = lax.population_count(number >> 1)
    ending = lax.population_count(number ^ (number + 1)) - 1  # subtrees that end here: trailing ones of the number
    return _any_row_turned(half, top, ending) if lockstep else _some_row_turned(half, top, ending)


def _some_row_turned(half: Half, top: Any, ending: Any) -> Any:
    """From the smallest subtree (its left end is in row `top`) to the largest, until one has turned."""

    def check(state: Any) -> Any:
        row, _ = state
        begin, middle = _row(half, row), _row(half, row + 1)
        whole = turned(begin[0], half.previous, half.momentum_sum - begin[2])
        return row - 1, whole | (_joint_turned(half, begin, middle) & (row < top))

    def go_on(state: Any) -> Any:
        row, found = state
        return (row > top - ending) & ~found

    return lax.while_loop(go_on, check, (top, jnp.zeros((), bool)))[1]


def _any_row_turned(half: Half, top: Any, ending: Any) -> Any:
    rows = jnp.arange(half.firsts.shape[0] - 1)
    half = half._replace(previous=half.previous[None], momentum_sum=half.momentum_sum[None])
    begin = (half.firsts[:-1], half.befores[:-1], half.sums[:-1])
    middle = (half.firsts[1:], half.befores[1:], half.sums[1:])
    whole = turned(begin[0], half.previous, half.momentum_sum - begin[2])
    found = whole | (_joint_turned(half, begin, middle) & (rows < top))
    return jnp.any(found & (rows <= top) & (rows > top - ending))


def _row(half: Half, row: Any) -> tuple[Any, Any, Any]:
    return half.firsts[row], half.befores[row], half.sums[row]


def _joint_turned(half: Half, begin: tuple[Any, Any, Any], middle: tuple[Any, Any, Any]) -> Any:
    """The checks across the joint of a subtree's two halves: each half with the nearest leaf of the other."""
    left_sum, right_sum = middle[2] - begin[2], half.momentum_sum - middle[2]
    return turned(begin[0], middle[0], left_sum + middle[0]) | turned(middle[1], half.previous, right_sum + middle[1])


def _doubled(tree: Tree, half: Half, sound: Any, uniform: Any, most_doublings: Any) -> Tree:
    """The tree with its new half; an unsound half (turned, divergent) is left out and ends the trajectory."""
    forward = half.direction > 0
    take = sound & (jnp.log(uniform) < half.log_weight - tree.log_weight)
    near, far = select(forward, (tree.right, tree.left), (tree.left, tree.right))
    total = tree.momentum_sum + half.momentum_sum
    turning = (
        turned(far.momentum, half.previous, total)
        | turned(far.momentum, half.first, tree.momentum_sum + half.first)
        | turned(near.momentum, half.previous, half.momentum_sum + near.momentum)
    )
    depth = tree.depth + 1
    grown = tree._replace(
        left=select(forward, tree.left, half.frontier),
        right=select(forward, half.frontier, tree.right),
        momentum_sum=total,
        log_weight=jnp.logaddexp(tree.log_weight, half.log_weight),
        proposal=select(take, half.proposal, tree.proposal),
    )
    ended, full = ~sound | turning, depth >= most_doublings
    return select(sound, grown, tree)._replace(depth=depth, cut=full & ~ended, finished=ended | full)
