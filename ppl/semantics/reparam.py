"""Reparameterisation: draw an auxiliary choice instead, and compute the original one from it.

A rule splits a distribution into a *base* law, drawn at `address/base`, and a function that pushes a draw of the base
to a draw of the distribution; the original address becomes a recorded (deterministic) value. Law: the joint law of all
values is unchanged, that is, with theta = push(base),

    log density of the new program at base  =  log density of the old one at theta  +  log |d theta / d base|.

Families are entries of a table: `LOCATION_SCALE` for `noncentered`, `SPLITS` for the wrappers around them.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.distributions.scaled import Scaled
from ppl.errors import AddressError, ReparameterizationError
from ppl.semantics.binding import bind_sample
from ppl.semantics.measures import join
from ppl.semantics.program import Program
from ppl.semantics.protocol import SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again, placed, record_choice

BASE = "base"
"""The last part of the auxiliary choice's address: `theta` is computed from the choice at `theta/base`."""


class Split(NamedTuple):
    """A base law and the function that pushes its draws to draws of the distribution that was split."""

    base: Any
    push: Callable[[Any], Any]


@runtime_checkable
class Rule(Protocol):
    """How to split a distribution; hashable."""

    @property
    def expects(self) -> str:
        """What the rule can split, for messages."""
        ...

    def split(self, distribution: Any) -> Split | None:
        """The split, or None where the rule does not fit the distribution."""
        ...


# --- non-centred location-scale families -----------------------------------------------------------------------------

LOCATION_SCALE: dict[type, Callable[[Any, Any, Any], dist.Distribution]] = {
    dist.Normal: lambda d, loc, scale: dist.Normal(loc, scale),
    dist.Cauchy: lambda d, loc, scale: dist.Cauchy(loc, scale),
    dist.Laplace: lambda d, loc, scale: dist.Laplace(loc, scale),
    dist.Logistic: lambda d, loc, scale: dist.Logistic(loc, scale),
    dist.Gumbel: lambda d, loc, scale: dist.Gumbel(loc, scale),
    dist.StudentT: lambda d, loc, scale: dist.StudentT(d.df, loc, scale),
}
"""For each location-scale family with attributes `loc` and `scale`: the member with another location and scale."""


@dataclass(frozen=True)
class Noncentered:
    """The rule that `noncentered` makes."""

    centeredness: float = 0.0
    expects = (
        "a location-scale distribution (Normal, StudentT, Cauchy, Laplace, Logistic, Gumbel, LogNormal, "
        "MultivariateNormal with centeredness 0), expanded, independent or transformed"
    )

    def split(self, distribution: Any) -> Split | None:
        """Split off location and scale."""
        family = LOCATION_SCALE.get(type(distribution))
        if family is not None:
            return self._location_scale(distribution, family)
        if type(distribution) is dist.MultivariateNormal and self.centeredness == 0.0:
            return _whitened(distribution)
        if isinstance(distribution, dist.TransformedDistribution):
            return _then(self.split(distribution.base_dist), _pushed(distribution))
        return _wrapped(distribution, self.split)

    def _location_scale(self, distribution: Any, family: Callable[..., dist.Distribution]) -> Split:
        c, loc, scale = self.centeredness, distribution.loc, distribution.scale
        base = family(distribution, c * loc, scale**c)
        if c == 0.0:
            base = family(distribution, jnp.zeros_like(loc), jnp.ones_like(scale))

        def push(value: Any) -> Any:
            near, spread = _aligned(loc, jnp.ndim(value)), _aligned(scale, jnp.ndim(value))
            return near + spread ** (1.0 - c) * (value - c * near)

        return Split(base, push)


def noncentered(centeredness: float = 0.0) -> Noncentered:
    r"""The rule for location-scale families: compute a draw from one of a standard (or less spread) member.

    $b \sim F(c \mu, \sigma^c)$, $\theta = \mu + \sigma^{1-c}(b - c\mu)$.

    Args:
        centeredness: c in [0, 1]; 0 draws from the standard member of the family, 1 changes nothing but the address.

    Returns:
        A rule for `ppl.reparam`.

    Raises:
        ReparameterizationError: for a number outside [0, 1].

    Reference:
        Papaspiliopoulos, Roberts, Skold, "A general framework for the parametrization of hierarchical models",
        Statistical Science 22 (2007); Gorinova, Moore, Hoffman, "Automatic reparameterisation of probabilistic
        programs", ICML 2020.
    """
    if not 0.0 <= centeredness <= 1.0:
        raise ReparameterizationError(
            f"noncentered was given centeredness {centeredness}.\nExpected: a number in [0, 1]."
        )
    return Noncentered(float(centeredness))


def _whitened(distribution: dist.MultivariateNormal) -> Split:
    """A multivariate normal as an affine image of independent standard normals."""
    loc, scale_tril = distribution.loc, distribution.scale_tril
    base = dist.Normal(jnp.zeros(distribution.shape(), jnp.result_type(loc)), 1.0).to_event(1)

    def push(value: Any) -> Any:
        factor = _aligned(scale_tril, jnp.ndim(value) + 1)
        return _aligned(loc, jnp.ndim(value)) + jnp.matmul(factor, value[..., None])[..., 0]

    return Split(base, push)


# --- transformed distributions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transformed:
    """The rule that `transformed` makes."""

    expects = "a TransformedDistribution, expanded or independent"

    def split(self, distribution: Any) -> Split | None:
        """Split into the base distribution and the transforms."""
        if isinstance(distribution, dist.TransformedDistribution):
            return Split(distribution.base_dist, _pushed(distribution))
        return _wrapped(distribution, self.split)


def transformed() -> Transformed:
    """The rule for a `TransformedDistribution`: draw from its base, push the draw through its transforms."""
    return Transformed()


def _pushed(distribution: dist.TransformedDistribution) -> Callable[[Any], Any]:
    def push(value: Any) -> Any:
        for transform in distribution.transforms:
            value = transform(value)
        return value

    return push


# --- wrappers --------------------------------------------------------------------------------------------------------

Splitter = Callable[[Any], Split | None]


def _wrapped(distribution: Any, split: Splitter) -> Split | None:
    """Split what is inside a wrapper and wrap its base again."""
    wrapper = SPLITS.get(type(distribution))
    inner = None if wrapper is None else split(distribution.base_dist)
    return None if wrapper is None or inner is None else inner._replace(base=wrapper(distribution, inner.base))


def _then(inner: Split | None, push: Callable[[Any], Any]) -> Split | None:
    return None if inner is None else Split(inner.base, lambda value: push(inner.push(value)))


SPLITS: dict[type, Callable[[Any, Any], Any]] = {
    dist.ExpandedDistribution: lambda wrapper, base: base.expand(wrapper.batch_shape),
    dist.Independent: lambda wrapper, base: base.to_event(wrapper.reinterpreted_batch_ndims),
}
"""For each wrapper: the same wrapper around another base."""


def _aligned(parameter: Any, rank: int) -> Any:
    """A parameter with leading axes of size one, up to a rank (scalars need none)."""
    shape = jnp.shape(parameter)
    return parameter if not shape else jnp.reshape(parameter, (1,) * (rank - len(shape)) + shape)


# --- the rewriting ---------------------------------------------------------------------------------------------------


class Reparam(Rewrite):
    """Choices with a rule are computed from an auxiliary choice; other sites stay."""

    def __init__(self, rules: tuple[tuple[str, Rule], ...]) -> None:
        self.rules = dict(rules)

    def site(self, node: SampleSite, read: Any) -> Any:
        """Draw the base, push it, record the value under the old address."""
        del read
        rule = self.rules.get(node.address)
        if rule is None:
            return bind_again(node)
        base, push = _split_site(rule, node)
        site = placed(node.site)
        value = push(bind_sample(site._replace(address=join(site.address, BASE)), base))
        record_choice(node, value)
        return value


def _split_site(rule: Rule, node: SampleSite) -> Split:
    """Split a site's distribution; in a subsampled plate its base is scaled as the choice was."""
    measure, subsampled = node.measure, any(frame.scale != 1.0 for frame in node.site.plates)
    if isinstance(measure, Scaled) and subsampled:
        inner = rule.split(measure.base_dist)
        found = None if inner is None else inner._replace(base=Scaled(inner.base, measure.scale))
    else:
        found = rule.split(measure)
    if found is None:
        raise ReparameterizationError(
            f"The rule {rule!r} does not fit the choice {node.address!r} at {node.site.source}, drawn from "
            f"{node.signature.name} ({type(measure).__name__}).\nExpected: {rule.expects}.\n"
            "Take the address out of the rules, or write the choice as a transform of another one in the model."
        )
    return found


def reparam(program: Program, rules: Mapping[str, Rule]) -> Program:
    """The program in which some choices are computed from auxiliary ones; the joint law of all values is the same.

    The auxiliary choice of `theta` is at `theta/base`, with the plates and loop axes of `theta`; `theta` becomes a
    deterministic value. Inside a subsampled plate, the base is scaled as the choice was: the new program is the one
    with the plate around the reparameterised choice, so that its density, too, estimates that of the whole plate.

    Args:
        program: A program.
        rules: For each address of a latent choice, a rule: `ppl.noncentered()`, `ppl.transformed()`, or an object with
            a method `split(distribution) -> Split | None` and an attribute `expects`.

    Raises:
        AddressError: for an address that the program does not have or that is not a latent choice.
        ReparameterizationError: where a rule does not fit the distribution at its address.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def funnel():
        ...     scale = ppl.sample("scale", dist.HalfNormal(3.0))
        ...     return ppl.sample("x", dist.Normal(1.0, scale))
        >>> trace = reparam(funnel(), {"x": noncentered()}).simulate(jax.random.key(0))
        >>> list(trace.choices), list(trace.deterministic)
        (['scale', 'x/base'], ['x'])
    """
    _check_addresses(program, rules)
    ordered = tuple(sorted(rules.items(), key=lambda item: item[0]))
    derived = Program.of(_Reparameterised(program.name, ordered), (program,))
    derived.staged  # noqa: B018  (raises now where a rule does not fit)
    return derived


@dataclass(frozen=True)
class _Reparameterised:
    """Bind a program through the rewriting; compared by name and rules, so that staging is cached."""

    name: str
    rules: tuple[tuple[str, Rule], ...]

    def __call__(self, program: Program) -> Any:
        return program.rewrite(Reparam(self.rules))


def _check_addresses(program: Program, rules: Mapping[str, Rule]) -> None:
    table = program.staged.table
    for address, rule in rules.items():
        if address not in table:
            near = difflib.get_close_matches(address, table, n=1)
            hint = f" Did you mean {near[0]!r} ({table[near[0]].site.source})?" if near else ""
            raise AddressError(
                f"reparam was given {rule!r} for the address {address!r}, which the program does not have.{hint}\n"
                f"Its addresses: {', '.join(map(repr, table)) or 'none'}."
            )
        site = table[address].site
        if site.kind != "latent":
            raise ReparameterizationError(
                f"reparam was given the rule {rule!r} for {address!r}, which is {site.kind} at {site.source}.\n"
                "Expected: a latent choice. A value that is given has no base to be drawn; reparameterise before "
                "conditioning, or take the address out of the rules."
            )
