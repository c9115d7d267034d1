r"""Involutive Metropolis-Hastings: Metropolis-Hastings-Green for any involution, of varying dimension too.

Draw auxiliary choices $u \sim q(\cdot \mid x)$, map $(x', u') = \varphi(x, u)$ by an involution, and accept with

$$\min\left(1, \frac{p(x')\, q(u' \mid x')}{p(x)\, q(u \mid x)} \left|\det \frac{\partial (x', u')}{\partial (x, u)}
\right|\right).$$

p and q are densities of the values as the programs see them: with respect to Lebesgue measure on the supports for
continuous choices (no change to R^n is made), counting measure for discrete ones. The determinant is that of the
continuous choices that are made, the discrete ones held fixed. Which choices are made is decided by the programs: the
move may enter another branch, if as many continuous choices are made, in x and u together, after it as before.

Law: the kernel is in balance with the program's measure whatever `involution` is, since a move that a second
application does not undo is never accepted. It does not mix by itself: what it can reach is the user's business.

References: Green, "Reversible jump Markov chain Monte Carlo computation and Bayesian model determination", Biometrika
82 (1995); Neklyudov, Welling, Egorov, Vetrov, "Involutive MCMC", ICML (2020); Cusumano-Towner, Lew, Mansinghka,
"Automating involutive MCMC using probabilistic and differentiable programming" (2020).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.errors import MeasureError
from ppl.inference.involution_runs import DISCRETE, THIN, Run, described, drawn, fitted, replayed
from ppl.inference.jacobian import Coordinate, Linearized, linearized, log_abs_det, same_number
from ppl.inference.kernels import Kernel, State
from ppl.semantics import choices as ch
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices

Aux = Callable[[Choices], Program]
Involution = Callable[[Choices, Choices], tuple[Choices, Choices]]


class Ratio(NamedTuple):
    """The logarithms whose sum is the acceptance ratio."""

    target: Any
    auxiliary: Any
    jacobian: Any


class Pair(NamedTuple):
    """Where the involution acts: the program's run and the auxiliary one."""

    target: Run
    auxiliary: Run

    @property
    def choices(self) -> tuple[Choices, Choices]:
        """Both sets of choices."""
        return self.target.state.choices, self.auxiliary.state.choices

    @property
    def log_density(self) -> Any:
        """Log density of the pair (nats)."""
        return self.target.log_density + self.auxiliary.log_density


class Move(NamedTuple):
    """One application of an involution: from where to where, and what is needed to judge it.

    `back` holds the leaves of the second application; `returned` says whether they are those of `old`; `matched`
    whether as many continuous choices are made after the move as before.
    """

    old: Pair
    new: Pair
    log_det: Any
    back: list[Any]
    returned: Any
    matched: Any

    @property
    def possible(self) -> Any:
        """Whether the move ends at positive density."""
        return (self.new.target.log_density > -jnp.inf) & (self.new.auxiliary.log_density > -jnp.inf)


@dataclass(frozen=True)
class Involutive:
    """What `involutive` makes: a maker of kernels, comparable by its two functions."""

    aux: Aux
    involution: Involution

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        ch.refuse_unbounded(program.staged, "kernel")
        return partial(_kernel, self, program)


def involutive(aux: Aux, involution: Involution) -> Involutive:
    """Metropolis-Hastings-Green with a move of the user's own.

    Args:
        aux: From the choices to a program that draws the auxiliary ones (no observations, no factors). A model
            decorated with `@ppl.model` that takes the dict of choices will do.
        involution: `(choices, aux_choices) -> (new_choices, new_aux_choices)` in JAX, all of them dicts by address with
            a value for every address. Values of choices that are not made are zero on the way in and ignored on the
            way out. Applied twice it must return the start: try `check_involution(program, aux, involution, key)`.

    Returns:
        A maker of kernels. Each records `accepted`, its probability `acceptance`, `log_density`, and `not_involutive`:
        whether the move led to positive density but was refused, since a second application did not return the start
        (to some 1e-3 in float32, 1e-7 in float64) or the numbers of continuous choices did not agree.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def income():
        ...     return ppl.sample("x", dist.LogNormal(3.0, 0.5))
        >>> @ppl.model
        ... def factor(choices):
        ...     return ppl.sample("log", dist.Normal(0.0, 0.3))
        >>> def scale(choices, aux):
        ...     return {"x": choices["x"] * jnp.exp(aux["log"])}, {"log": -aux["log"]}
        >>> step = involutive(factor, scale)(income())(State({"x": jnp.array(20.0)}, {}))
        >>> sorted(step.sites)
        ['accept', 'acceptance', 'accepted', 'aux/log', 'log_density', 'not_involutive']
    """
    return Involutive(aux, involution)


def _kernel(move: Involutive, program: Program, state: State) -> Program:
    return Program.of(step, (program, state, move))


def step(program: Program, state: State, move: Involutive, log_ratio: Callable[[Ratio], Any] = sum) -> State:
    """The body of the kernel. `log_ratio` adds up the terms (another than the sum is a wrong kernel, for tests)."""
    moved = propose(program, state, move)
    old, new = moved.old.target, moved.new.target
    sound = moved.returned & moved.matched
    log_accept = jnp.where(sound, _log_accept(moved, log_ratio), -jnp.inf)
    acceptance = jnp.exp(log_accept)
    accepted = sample("accept", dist.Bernoulli(probs=acceptance)) == 1
    deterministic("accepted", accepted)
    deterministic("acceptance", acceptance)
    deterministic("log_density", jnp.where(accepted, new.log_density, old.log_density))
    deterministic("not_involutive", moved.possible & ~sound)
    return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new.state, old.state)


def _log_accept(moved: Move, log_ratio: Callable[[Ratio], Any]) -> Any:
    """Log of the acceptance probability; a move to density zero (or NaN) is never accepted, one away from it always."""
    target, auxiliary = (b.log_density - a.log_density for a, b in zip(moved.old, moved.new, strict=True))
    ratio = log_ratio(Ratio(target, auxiliary, moved.log_det))
    bounded = jnp.where(moved.old.log_density == -jnp.inf, 0.0, jnp.minimum(ratio, 0.0))
    return jnp.where(moved.possible & ~jnp.isnan(bounded), bounded, -jnp.inf)


def propose(program: Program, state: State, move: Involutive) -> Move:
    """Draw the auxiliary choices (at sites under `aux/`) and apply the involution, twice."""
    old = Pair(replayed(program, state.choices), drawn(move.aux(state.choices)))
    return applied(program, move, old)


def applied(program: Program, move: Involutive, old: Pair) -> Move:
    """Apply the involution at a pair, and once more at where it leads."""
    leaves, tree = jax.tree.flatten(old.choices)
    programs = (program, move.aux(old.choices[0]))
    names = coordinates(old, programs)

    def function(*inner: Any) -> list[Any]:
        result = move.involution(*jax.tree.unflatten(tree, inner))
        return jax.tree.leaves(fitted(result, programs, move.involution))

    map_at = linearized(function, leaves, [Coordinate(n.kind != DISCRETE, n.masked) for n in names])
    _refuse_thin([names[i] for i in {*map_at.rows, *map_at.columns}], move)
    choices, aux_choices = jax.tree.unflatten(tree, map_at.leaves)
    target = replayed(program, choices)
    new = Pair(target, replayed(move.aux(target.state.choices), aux_choices, laws=True))
    back = map_at.function(*jax.tree.leaves(new.choices))
    made = (made_flags(old), made_flags(new)) if any(n.masked for n in names) else None
    log_det, matched = _log_det(map_at, made)
    return Move(old, new, log_det, back, _all(same(old, back)), matched)


class Name(NamedTuple):
    """What is known of one array of a pair's choices before it is moved."""

    address: str
    source: str
    kind: int
    masked: bool


def coordinates(pair: Pair, programs: tuple[Program, Program]) -> list[Name]:
    """What is known of each leaf of a pair's choices; addresses of auxiliary ones begin with `aux/`."""
    known = tuple(
        {a: Name(prefix + a, p.sites[a].source, x.shape[-1], p.sites[a].masked) for a, x in run.kinds.items()}
        for run, p, prefix in zip(pair, programs, ("", "aux/"), strict=True)
    )
    return jax.tree.leaves(known, is_leaf=lambda x: isinstance(x, Name))


def _refuse_thin(moved: list[Name], move: Involutive) -> None:
    thin = [f"{name.address!r} ({name.source})" for name in moved if name.kind == THIN]
    if thin:
        raise MeasureError(
            f"The involution {described(move.involution)} moves {', '.join(thin)}, whose support has fewer dimensions "
            "than the array (a simplex, a sphere, a triangular matrix), so that there is no Jacobian determinant.\n"
            "Expected: continuous choices whose elements are free, or ones that are returned as they came.\n"
            "Fix: write the choice by free ones (stick-breaking with dist.Beta, normalised dist.Gamma), or move it "
            "with another kernel."
        )


def made_flags(pair: Pair) -> list[Any]:
    """For each leaf of a pair's choices, elementwise, whether it is made."""
    return jax.tree.leaves(tuple(run.made for run in pair))


def _log_det(map_at: Linearized, made: tuple[list[Any], list[Any]] | None) -> tuple[Any, Any]:
    """Log |det|, and whether as many continuous choices are made after the move as before."""
    if made is None or len(map_at.matrix) == 0:
        return log_abs_det(map_at.matrix), jnp.ones((), bool)
    made_in = jnp.concatenate([made[0][i].reshape(-1) for i in map_at.columns])
    made_out = jnp.concatenate([made[1][i].reshape(-1) for i in map_at.rows])
    return log_abs_det(map_at.matrix, made_out, made_in), same_number(made_out, made_in)


def same(old: Pair, back: list[Any]) -> list[Any]:
    """For each leaf, elementwise, whether the second application returned it; what was not made need not return."""
    leaves = jax.tree.leaves(old.choices)
    return [
        ~made | (_close(got, x, leaves) if jnp.issubdtype(x.dtype, jnp.inexact) else got == x)
        for x, got, made in zip(leaves, back, made_flags(old), strict=True)
    ]


def _close(got: Any, expected: Any, leaves: list[Any]) -> Any:
    """Equal up to the square root of the float precision, and the rounding of the largest value around."""
    eps = jnp.finfo(expected.dtype).eps
    floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact) and x.size]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in floats])) if floats else 0.0
    return jnp.abs(got - expected) <= jnp.sqrt(eps) * (1.0 + jnp.abs(expected)) + 32.0 * eps * largest


def _all(flags: list[Any]) -> Any:
    return jnp.all(jnp.stack([jnp.all(x) for x in flags])) if flags else jnp.ones((), bool)
