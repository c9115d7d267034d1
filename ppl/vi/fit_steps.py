"""The compiled part of a fit: a stretch of steps of all restarts, which ends by itself where nothing is left alive.

One step: value and gradient of the objective from the step's own key, then the optimiser's update. A restart whose
value, gradient or updated parameters are not finite stays as it was before that step, and is alive no more. Law: the
state after a number of steps does not depend on how they were cut into stretches, bit for bit: the number of steps is
an operand of one executable.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ppl.typing import PRNGKey
from ppl.vi.fit_batches import Batches
from ppl.vi.objective import Evaluation, Objective


class Problem(NamedTuple):
    """What a fit does, but for its state.

    Attributes:
        function, bound, maximize, copies: Those of the objective.
        fixed: The leaves of the parameters that are not fitted.
        args: The objective's further arguments.
        optimizer: An optimiser that takes extra arguments.
        batches: How the arguments are cut; None: they are used whole.
        key: The key of the fit.
        keys: The keys of the restarts.
    """

    function: Any
    bound: tuple[Any, ...]
    maximize: bool
    copies: int
    fixed: Any
    args: tuple[Any, ...]
    optimizer: optax.GradientTransformationExtraArgs
    batches: Batches | None
    key: PRNGKey
    keys: PRNGKey

    @property
    def objective(self) -> Objective:
        """The objective."""
        return Objective(self.function, self.bound, self.maximize, self.copies)

    def part(self, step: Any) -> tuple[Any, ...]:
        """The arguments at a step."""
        if self.batches is None:
            return self.args
        return self.batches.cut(self.args, self.batches.order(self.key, step), step)


class State(NamedTuple):
    """Where the restarts stand; every leaf has a leading axis of restarts.

    Attributes:
        params: The leaves that are fitted.
        optimizer: The optimiser's states.
        memory: What baselines remember.
        alive: Whether everything has been finite so far.
        done: Steps made.
    """

    params: Any
    optimizer: Any
    memory: Any
    alive: Bool[Array, "restarts"]
    done: Int[Array, "restarts"]


@eqx.filter_jit
def begun(problem: Problem, params: Any) -> State:
    """The state before the first step, from parameters with a leading axis of restarts."""
    restarts = len(problem.keys)
    first = eqx.combine(jax.tree.map(lambda x: x[0], params), problem.fixed)
    memory = problem.objective.memory(first, *problem.part(0))
    return State(
        params,
        _side_by_side(problem.optimizer.init, restarts)(params),
        jax.tree.map(lambda x: jnp.broadcast_to(x, (restarts, *jnp.shape(x))), memory),
        jnp.ones(restarts, bool),
        jnp.zeros(restarts, jnp.int32),
    )


@eqx.filter_jit
def advance(
    problem: Problem, state: State, begin: Int[Array, ""], count: Int[Array, ""], most: int
) -> tuple[State, Float[Array, "restarts most"]]:
    """Make steps of every restart that is alive.

    Args:
        problem: What is fitted.
        state: Where it stands.
        begin: The number of the first step.
        count: How many steps, at most `most`.
        most: The size of the table of values.

    Returns:
        The state, and the values of the objective before each step (beyond the steps made, they mean nothing).
    """
    restarts, batches = len(problem.keys), problem.batches
    order = None if batches is None else batches.order(problem.key, begin)

    def body(loop: Any) -> Any:
        index, state, order, values = loop
        step, args = begin + index, problem.args
        if batches is not None:
            order = batches.following(order, problem.key, step)
            args = batches.cut(args, order, step)
        state, value = stepped(problem, state, args, step)
        return index + 1, state, order, values.at[:, index].set(value.astype(values.dtype))

    values = jnp.zeros((restarts, most), jnp.result_type(float))
    loop = (jnp.int32(0), state, order, values)
    _, state, _, values = jax.lax.while_loop(lambda loop: (loop[0] < count) & jnp.any(loop[1].alive), body, loop)
    return state, values


def stepped(problem: Problem, state: State, args: tuple[Any, ...], step: Any) -> tuple[State, Float[Array, "restarts"]]:
    """One step of all restarts, and the value of each objective before it."""
    one = _side_by_side(lambda key, state: _step(problem, key, state, args), len(problem.keys))
    return one(jax.vmap(jax.random.fold_in, (0, None))(problem.keys, step), state)


def _step(problem: Problem, key: PRNGKey, state: State, args: tuple[Any, ...]) -> tuple[State, Any]:
    value, grads, memory = evaluated(problem, key, state, args)
    updates, optimizer = updated(problem, key, state, args, value, grads)
    params = optax.apply_updates(state.params, updates)
    alive = state.alive & all_finite((value, grads, params))
    new = State(params, optimizer, memory, alive, state.done + 1)
    kept = jax.tree.map(lambda old, new: jnp.where(alive, new, old), state, new)
    return kept._replace(alive=alive), value


def evaluated(problem: Problem, key: PRNGKey, state: State, args: tuple[Any, ...]) -> Evaluation:
    """Value, gradient, and what baselines remember afterwards, of one restart."""
    params = eqx.combine(state.params, problem.fixed)
    return problem.objective.evaluate(key, params, *args, memory=state.memory)


def updated(
    problem: Problem, key: PRNGKey, state: State, args: tuple[Any, ...], value: Any, grads: Any
) -> tuple[Any, Any]:
    """The optimiser's updates and its new state: it makes costs small.

    Optimisers that search a line get the objective at the step's own key, which is a fixed function.
    """
    sign = -1.0 if problem.maximize else 1.0
    cost, slopes = sign * value, jax.tree.map(lambda x: sign * x, grads)

    def again(params: Any) -> Any:
        return sign * problem.objective.value(key, eqx.combine(params, problem.fixed), *args)

    return problem.optimizer.update(slopes, state.optimizer, state.params, value=cost, grad=slopes, value_fn=again)


def all_finite(tree: Any) -> Any:
    """Whether every number of a tree is finite."""
    found = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(found))


def _side_by_side(function: Any, restarts: int) -> Any:
    """A function of trees with a leading axis of restarts; one alone loses it inside."""
    if restarts > 1:
        return jax.vmap(function)

    def alone(*trees: Any) -> Any:
        out = function(*jax.tree.map(lambda x: x[0], trees))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], out)

    return alone
