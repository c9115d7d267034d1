"""The No-U-Turn trajectory: equal to a naive recursion, and in exact detailed balance on an orbit.

The target is a banana, asymmetric, so that energies differ between leaves and trajectories turn everywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppl.numerics import trajectory
from ppl.numerics.trajectory import Point, leapfrog, plant

WIDTH = 0.25
MOST = 6


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def log_density(x):
    return -(x[0] ** 2 / 2 + x[0] ** 4 / 8 + (x[1] - x[0] ** 2 / 2 - 0.3 * x[0]) ** 2 / (2 * WIDTH))


VALUE_AND_GRAD = jax.value_and_grad(log_density)


def gradient(x):
    """By hand, in NumPy."""
    off = (x[1] - x[0] ** 2 / 2 - 0.3 * x[0]) / WIDTH
    return np.array([-(x[0] + x[0] ** 3 / 2) + off * (x[0] + 0.3), -off])


def point_at(position, momentum):
    value, slope = VALUE_AND_GRAD(position)
    return Point(position, momentum, slope, value)


# --- leapfrog --------------------------------------------------------------------------------------------------------


def test_leapfrog_goes_back_and_keeps_volume(rng):
    def move(phase, step):
        point = leapfrog(VALUE_AND_GRAD, point_at(phase[:2], phase[2:]), step)
        return jnp.concatenate([point.position, point.momentum])

    phase = jnp.asarray(rng.normal(size=4))
    np.testing.assert_allclose(move(move(phase, 0.3), -0.3), phase, atol=1e-13)
    assert not np.allclose(move(phase, 0.3), phase, atol=0.01)
    jacobian = jax.jacfwd(move)(phase, 0.3)
    omega = np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])
    np.testing.assert_allclose(jacobian.T @ omega @ jacobian, omega, atol=1e-12)


# --- against a naive recursion ---------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A start, and the noise by leaf."""

    position: np.ndarray
    momentum: np.ndarray
    step: np.ndarray
    forward: np.ndarray
    within: np.ndarray
    between: np.ndarray
    coins: np.ndarray


def cases(rng, count):
    noise = 1 << MOST
    step = np.exp(rng.uniform(np.log(0.01), np.log(0.9), count))
    step[::16] = 4.0  # these diverge
    position = rng.normal(size=(count, 2))
    coins = rng.random((2, count, noise)) < 0.5
    uniforms = rng.random((2, count, noise))
    return Case(position, rng.normal(size=(count, 2)), step, coins[0, :, 0], *uniforms, coins[1])


class Naive:
    """A tree as lists of leaves (position, momentum), grown by recursion."""

    def __init__(self, case):
        self.case, self.count, self.accepted, self.diverging = case, 0, 0.0, False
        self.start = (case.position, case.momentum)
        self.energy = energy_of(self.start)

    def half(self, frontier, depth, step):
        """The leaves of a subtree, and whether it is sound."""
        if depth == 0:
            leaf = naive_leapfrog(frontier, step)
            self.count += 1
            error = energy_of(leaf) - self.energy
            self.accepted += min(1.0, np.exp(-error)) if error == error else 0.0
            self.diverging = not error <= 1000
            return [leaf], not self.diverging
        first, sound = self.half(frontier, depth - 1, step)
        if not sound:
            return first, False
        second, sound = self.half(first[-1], depth - 1, step)
        return first + second, sound and not turns(first, second)

    def run(self):
        leaves, proposal, forward = [self.start], self.start, self.case.forward
        for depth in range(MOST):
            order = leaves if forward else leaves[::-1]
            new, sound = self.half(order[-1], depth, self.case.step if forward else -self.case.step)
            if not sound:
                return leaves, proposal, depth + 1, "diverging" if self.diverging else "half turned"
            chosen = self.running_choice(new)
            ratio = np.sum(self.weights(new)) / np.sum(self.weights(leaves))
            proposal = chosen if self.case.between[self.count - 1] < ratio else proposal
            stop = turns(order, new)
            leaves = order + new if forward else new[::-1] + leaves
            if stop:
                return leaves, proposal, depth + 1, "turned"
            forward = self.case.coins[self.count - 1]
        return leaves, proposal, MOST, "full"

    def weights(self, leaves):
        return np.exp([self.energy - energy_of(leaf) for leaf in leaves])

    def running_choice(self, leaves):
        weights, first = self.weights(leaves), self.count - len(leaves)
        chosen = leaves[0]
        for k in range(1, len(leaves)):
            chosen = leaves[k] if self.case.within[first + k] < weights[k] / weights[: k + 1].sum() else chosen
        return chosen


def energy_of(leaf):
    return 0.5 * leaf[1] @ leaf[1] - log_density(leaf[0])


def naive_leapfrog(leaf, step):
    half = leaf[1] + 0.5 * step * gradient(leaf[0])
    position = leaf[0] + step * half
    return position, half + 0.5 * step * gradient(position)


def crossing(first, last, total):
    return first @ total <= 0 or last @ total <= 0


def turns(first, second):
    """Stan's criterion for two halves, in the order of growth."""
    a, b = np.array([p for _, p in first]), np.array([p for _, p in second])
    return (
        crossing(a[0], b[-1], a.sum(0) + b.sum(0))
        or crossing(a[0], b[0], a.sum(0) + b[0])
        or crossing(a[-1], b[-1], b.sum(0) + a[-1])
    )


def grown(case, *, lockstep):
    def grow(growth):
        n = growth[0].leaves
        noise = (case.within[n], case.between[n], case.coins[n])
        return trajectory.leaf(VALUE_AND_GRAD, case.step, growth, noise, MOST, lockstep=lockstep)

    start = plant(point_at(case.position, case.momentum), case.forward, MOST)
    return lax.while_loop(lambda growth: ~growth[0].finished, grow, start)[0]


def ours(some, *, lockstep):
    """Trees of all cases: one after another, or in lockstep."""
    if lockstep:
        return jax.jit(jax.vmap(lambda case: grown(case, lockstep=True)))(some)
    return jax.jit(lambda cases: lax.map(lambda case: grown(case, lockstep=False), cases))(some)


def naive_trees(some):
    trees = []
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(len(some.step)):
            naive = Naive(Case(*(np.asarray(x)[i] for x in some)))
            trees.append((naive, *naive.run()))
    return trees


def assert_equal_trees(tree, naive_results):
    for i, (naive, leaves, proposal, depth, why) in enumerate(naive_results):
        assert int(tree.leaves[i]) == naive.count, (i, why)
        assert int(tree.depth[i]) == depth
        assert bool(tree.diverging[i]) == (why == "diverging")
        assert bool(tree.cut[i]) == (why == "full")
        near = {"rtol": 1e-7, "atol": 1e-7}
        np.testing.assert_allclose(tree.left.position[i], leaves[0][0], **near)
        np.testing.assert_allclose(tree.right.position[i], leaves[-1][0], **near)
        np.testing.assert_allclose(tree.right.momentum[i], leaves[-1][1], **near)
        np.testing.assert_allclose(tree.proposal.position[i], proposal[0], **near)
        np.testing.assert_allclose(tree.momentum_sum[i], np.sum([p for _, p in leaves], axis=0), **near)
        np.testing.assert_allclose(tree.log_weight[i], np.log(naive.weights(leaves).sum()), **near)
        np.testing.assert_allclose(tree.accepted[i], naive.accepted, **near)


@pytest.mark.parametrize("lockstep", [True, False])
def test_equal_to_the_naive_recursion(lockstep, rng):
    some = cases(rng, 160)
    expected = naive_trees(some)
    reasons = [result[-1] for result in expected]
    assert min(reasons.count(why) for why in ("diverging", "half turned", "turned", "full")) >= 5
    assert any(why != "full" and depth == MOST for _, _, _, depth, why in expected)  # these are not cut short
    assert_equal_trees(ours(some, lockstep=lockstep), expected)


def test_both_loops_are_equal(rng):
    some = cases(rng, 64)
    one, other = ours(some, lockstep=True), ours(some, lockstep=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), one, other)


def no_joint(half, begin, middle):
    return jnp.zeros(jnp.broadcast_shapes(half.leaf.shape, begin[0].shape[:-1]), bool)


def smallest_only(half, top, ending):
    return original_rows(half, top, jnp.minimum(ending, 1))


original_rows = trajectory._any_row_turned


@pytest.mark.parametrize(("name", "mutant"), [("_joint_turned", no_joint), ("_any_row_turned", smallest_only)])
def test_wrong_checks_of_a_half_die(name, mutant, rng, monkeypatch):
    some = cases(rng, 160)
    monkeypatch.setattr(trajectory, name, mutant)
    with pytest.raises(AssertionError):
        assert_equal_trees(ours(some, lockstep=True), naive_trees(some))


# --- exact detailed balance ------------------------------------------------------------------------------------------

STEP = 0.42
DOUBLINGS = 4
REACH = (1 << DOUBLINGS) - 1
STARTS = 12


def orbit(start):
    """Points of the orbit by number, from -STARTS - REACH to STARTS + REACH, and where to start."""

    def forward(point, _):
        following = leapfrog(VALUE_AND_GRAD, point, STEP)
        return following, point

    most = STARTS + REACH
    point = lax.fori_loop(0, most, lambda _, p: leapfrog(VALUE_AND_GRAD, p, -STEP), start)
    return lax.scan(forward, point, length=2 * most + 1)[1]


class Seen(NamedTuple):
    """What happens at a leaf: below which uniforms it is taken within and between halves."""

    position: jax.Array
    within: jax.Array
    between: jax.Array
    depth: jax.Array
    finished: jax.Array


def threshold(taken):
    """The u below which a monotone condition holds, to 2^-60."""

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        return jnp.where(taken(middle), middle, low), jnp.where(taken(middle), high, middle)

    return lax.fori_loop(0, 60, halve, (jnp.float64(0.0), jnp.float64(1.0)))[0]


def watched(point, directions):
    """What happens at each leaf of the tree from a point, for one sequence of directions; noise does not change it."""

    def step(growth, _):
        def with_noise(within, between):
            coin = directions[jnp.minimum(growth[0].depth + 1, DOUBLINGS - 1)]
            return trajectory.leaf(VALUE_AND_GRAD, STEP, growth, (within, between, coin), DOUBLINGS, lockstep=True)

        tree, half = with_noise(0.0, 0.0)
        new = half.proposal.position

        def taken_within(u):
            return jnp.all(with_noise(u, 0.0)[1].proposal.position == new)

        def taken_between(u):
            return jnp.all(with_noise(0.0, u)[0].proposal.position == new)

        seen = Seen(new, threshold(taken_within), threshold(taken_between), tree.depth, tree.finished)
        return (tree, half), seen

    return lax.scan(step, plant(point, directions[0], DOUBLINGS), length=REACH)[1]


def distribution(seen, start, positions):
    """The law of the next point: an array over the orbit."""
    tree, half, depth = np.zeros(len(positions)), np.zeros(len(positions)), 0
    tree[start] = 1.0
    for k in range(REACH):
        distances = np.abs(positions - seen.position[k]).max(axis=1)
        where = int(distances.argmin())
        assert distances[where] < 1e-6
        half *= 1 - seen.within[k]
        half[where] += seen.within[k]
        if seen.depth[k] > depth:
            tree = (1 - seen.between[k]) * tree + seen.between[k] * half
            half, depth = np.zeros_like(half), seen.depth[k]
        if seen.finished[k]:
            return tree
    raise AssertionError("the trajectory does not end")


def transition_matrix():
    """P(i -> j) for starts i around the middle of the orbit, and the energies; exact but for rounding."""
    points = orbit(point_at(jnp.array([0.7, -0.4]), jnp.array([0.9, 1.1])))
    numbers = np.arange(REACH, REACH + 2 * STARTS + 1)
    directions = np.array(np.meshgrid(*[[False, True]] * DOUBLINGS, indexing="ij")).reshape(DOUBLINGS, -1).T
    starts = jax.tree.map(lambda x: x[numbers], points)
    by_direction = jax.vmap(watched, in_axes=(None, 0))
    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(by_direction, in_axes=(0, None)))(starts, jnp.asarray(directions)))
    positions = np.asarray(points.position)
    rows = [
        [
            distribution(jax.tree.map(lambda x, i=i, d=d: x[i, d], seen), start, positions)
            for d in range(len(directions))
        ]
        for i, start in enumerate(numbers)
    ]
    return np.mean(rows, axis=1), np.asarray(starts.energy), numbers, seen


def imbalance(matrix, energies, numbers):
    flow = np.exp(-energies)[:, None] * matrix[:, numbers]
    return np.abs(flow - flow.T).max()


def test_detailed_balance_on_an_orbit():
    """exp(-H_i) P(i -> j) = exp(-H_j) P(j -> i), over all directions and all uniforms."""
    matrix, energies, numbers, seen = transition_matrix()
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    assert np.ptp(energies) > 0.2
    ends = {int(seen.depth[i, d, np.argmax(seen.finished[i, d])]) for i in range(len(numbers)) for d in range(16)}
    assert len(ends) > 2  # trajectories of several lengths
    moved = 1 - matrix[np.arange(len(numbers)), numbers]
    assert moved.min() > 0.1
    assert imbalance(matrix, energies, numbers) < 1e-10


def halves_alike(tree, half, sound, uniform, most):
    """The new half is taken with probability 1/2."""
    weights = half._replace(log_weight=tree.log_weight - jnp.log(2.0))
    return original_doubled(tree, weights, sound, uniform, most)._replace(
        log_weight=jnp.logaddexp(tree.log_weight, half.log_weight)
    )


def whole_unchecked(tree, half, sound, uniform, most):
    """The doubled tree itself may turn."""
    doubled = original_doubled(tree, half, sound, uniform, most)
    return doubled._replace(finished=~sound | (doubled.depth >= most))


def unweighted(half, point, tree, uniform):
    """All leaves of a half alike."""
    flat = point._replace(log_density=0.5 * jnp.sum(point.momentum**2) - tree.energy)
    grown_half, delta = original_grown(half, flat, tree, uniform)
    return grown_half._replace(frontier=point), delta


def barker_within(half, point, tree, uniform):
    """The tree's sum of weights is left out of the running choice."""
    return original_grown(half, point, tree, 2.0 * uniform)


original_doubled, original_grown = trajectory._doubled, trajectory._grown


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("_doubled", halves_alike),
        ("_doubled", whole_unchecked),
        ("_joint_turned", no_joint),
        ("_grown", unweighted),
        ("_grown", barker_within),
    ],
)
@pytest.mark.slow
def test_wrong_laws_of_selection_die(name, mutant, monkeypatch):
    monkeypatch.setattr(trajectory, name, mutant)
    matrix, energies, numbers, _ = transition_matrix()
    assert imbalance(matrix, energies, numbers) > 1e-4
