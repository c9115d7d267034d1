"""A program whose continuous choices live in R^n: what gradient-based samplers and optimisers move in.

`unconstrained(program)` replaces the law of each continuous choice by its `Pullback` along the bijection from R^n to
the choice's support, at the same address. Law: with x = constrain(u),

    log density of the new program at u  =  log density of the program at x  +  log |det d x / d u|.

The support may depend on earlier choices. Choices that are integers or booleans, or that have finitely many outcomes,
stay as they are; so do choices from measures of the user's own that have no `support` (they are taken to live in R^n).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from ppl.distributions.finite import Finite
from ppl.errors import MeasureError, SupportError
from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again, placed


class Pullback(dist.Distribution):
    r"""The law of $u = T^{-1}(x)$ for x from a distribution, T the bijection from R^n to its support.

    $\log p(u) = \log p_x(T(u)) + \log |\det dT/du|$, in nats.

    Args:
        base_dist: A continuous distribution.

    Examples:
        >>> import ppl.distributions as dist
        >>> float(Pullback(dist.Exponential(1.0)).log_prob(0.0))  # -exp(0) + 0
        -1.0
    """

    arg_constraints = {}
    pytree_data_fields = ("base_dist",)

    def __init__(self, base_dist: dist.Distribution) -> None:
        self.base_dist = base_dist
        shape = self.transform.inverse_shape(base_dist.shape())
        rank = len(base_dist.batch_shape)
        super().__init__(tuple(shape[:rank]), tuple(shape[rank:]))

    @property
    def support(self) -> constraints.Constraint:
        """R^n."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def transform(self) -> Any:
        """The bijection T."""
        return biject_to(self.base_dist.support)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw from the distribution and pull back.

        Args:
            key: A JAX key.
            sample_shape: Leading axes of independent draws.

        Returns:
            Shape `(*sample_shape, *batch_shape, *event_shape)`.
        """
        return self.transform.inv(self.base_dist.sample(key, sample_shape))

    def log_prob(self, value: Float[ArrayLike, "..."], intermediates: list[Any] | None = None) -> Float[Array, "..."]:
        """Log density (nats), batch-shaped, the log Jacobian determinant included."""
        del intermediates
        transform = self.transform
        pushed = transform(value)
        log_det = transform.log_abs_det_jacobian(value, pushed)
        beyond = len(self.base_dist.event_shape) - transform.codomain.event_dim
        summed = jnp.sum(log_det, axis=tuple(range(-beyond, 0)))
        return jnp.asarray(self.base_dist.log_prob(pushed) + summed)


def pulled_back(node: SampleSite) -> Pullback | None:
    """The pulled-back law of a continuous choice; None for a choice that stays as it is.

    Raises:
        MeasureError: where no bijection from R^n to the support is known.
    """
    measure = node.measure
    if node.observed is not None or not _is_continuous(node):
        return None
    try:
        return Pullback(measure)
    except NotImplementedError as error:
        raise MeasureError(
            f"The choice {node.address!r} at {node.site.source}, drawn from {node.signature.name}, has the support "
            f"{measure.support!r}, to which no bijection from R^n is known.\nExpected: a support that "
            "numpyro.distributions.transforms.biject_to knows. Register one there, or write the choice as a transform "
            "of another one in the model."
        ) from error


def _is_continuous(node: SampleSite) -> bool:
    floats = all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in node.signature.avals)
    support = getattr(node.measure, "support", None)
    if not floats or support is None or isinstance(node.measure, Finite) or node.signature.name == "Delta":
        return False
    return not getattr(support, "is_discrete", False)


# --- handlers --------------------------------------------------------------------------------------------------------


class Unconstrain(Rewrite):
    """Continuous choices are drawn in R^n and pushed to their supports."""

    def site(self, node: SampleSite, read: Any) -> Any:
        """Bind the pulled-back law; what comes after sees the constrained value."""
        del read
        pullback = pulled_back(node)
        if pullback is None:
            return bind_again(node)
        return pullback.transform(bind_sample(placed(node.site), pullback))


class Move(Handler):
    """Run a program on given choices and write them on the other side of the bijections."""

    def __init__(self, *, to_support: bool) -> None:
        self.to_support = to_support

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Push or pull the given value; the program goes on with the constrained one."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, ())
        pullback = pulled_back(node)
        if pullback is None:
            return Outcome(read, (), read)
        if self.to_support:
            value = pullback.transform(read)
            return Outcome(value, (), value)
        return Outcome(read, (), pullback.transform.inv(read))


# --- the door --------------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Unconstrained:
    """A program in R^n with the bijection of its choices to those of the original; a pytree.

    Attributes:
        original: The program whose choices live on their supports.
        program: The program whose continuous choices live in R^n at the same addresses; its density holds the Jacobian.
    """

    original: Program
    program: Program

    def constrain(self, choices: Choices) -> Choices:
        """From choices of `program` to choices of `original`.

        Args:
            choices: A value for every latent address, in R^n where continuous.

        Returns:
            The values on their supports; values of branches not taken are zero.
        """
        moved = _moved(self.original, self._checked(self.program, choices, "constrain"), "support")
        return _in_order(self.original, moved)

    def unconstrain(self, choices: Choices) -> Choices:
        """From choices of `original` to choices of `program`; the inverse of `constrain`.

        Args:
            choices: A value for every latent address, inside its support.

        Returns:
            The values in R^n; values of branches not taken are zero.

        Raises:
            SupportError: for a value outside its support (where the values are not traced).
        """
        moved = _moved(self.original, self._checked(self.original, choices, "unconstrain"), "reals")
        for address, value in moved.items():
            if not isinstance(value, Tracer) and np.isnan(np.asarray(value)).any():
                info = self.original.sites[address]
                raise SupportError(
                    f"The value to unconstrain for {address!r} ({info.source}, {info.distribution}) lies outside the "
                    f"support.\nGot: {choices[address]}.\nExpected: a value that the distribution can draw."
                )
        return _in_order(self.original, moved)

    @staticmethod
    def _checked(program: Program, choices: Choices, verb: str) -> Choices:
        return ch.checked(choices, program.staged, verb, complete=True)


def unconstrained(program: Program) -> Unconstrained:
    """The program with its continuous latent choices in R^n, and the bijection between the two.

    Args:
        program: A program without choices in unbounded loops.

    Returns:
        An `Unconstrained`: `.program`, `.constrain(choices)`, `.unconstrain(choices)`.

    Raises:
        MeasureError: a choice has a support to which no bijection from R^n is known.
        UnboundedError: a choice lies inside a `while_loop`.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def scale():
        ...     return ppl.sample("scale", dist.HalfNormal(1.0))
        >>> there = unconstrained(scale())
        >>> float(there.constrain({"scale": jnp.array(0.0)})["scale"])
        1.0
    """
    ch.refuse_unbounded(program.staged, "unconstrained form")
    derived = Program.of(_Derived(program.name), (program,))
    derived.staged  # noqa: B018  (raises now where a support has no bijection)
    return Unconstrained(program, derived)


@dataclass(frozen=True)
class _Derived:
    """Bind a program through the rewriting; compared by name, so that staging is cached."""

    name: str

    def __call__(self, program: Program) -> Any:
        return program.rewrite(Unconstrain())


@partial(jax.jit, static_argnums=2)
def _moved(program: Program, given: Choices, target: str) -> Choices:
    _, result = program.run(Move(to_support=target == "support"), given)
    return ch.flatten(result.writes, program.staged, ("latent",))


def _in_order(program: Program, choices: Choices) -> Choices:
    return {address: choices[address] for address in program.sites if address in choices}
