"""The table of a program's sites, read off its jaxpr without running anything.

Here two sites with one address are found, and branches that use one address with two shapes.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ppl.errors import BranchError, DuplicateAddressError, UnsupportedPrimitiveError
from ppl.semantics import jaxpr as jp
from ppl.semantics.measures import addresses
from ppl.semantics.site import Signature, Site, SiteInfo, Source


class CodeKey:
    """A code as a key of a cache: equal where the jaxpr is the same object."""

    __slots__ = ("code",)

    def __init__(self, code: jp.Code) -> None:
        self.code = code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodeKey) and other.code.jaxpr is self.code.jaxpr

    def __hash__(self) -> int:
        return id(self.code.jaxpr)


class _Around(NamedTuple):
    """The control flow around a site: leading axes, whether in a branch, whether in an unbounded loop."""

    axes: tuple[int, ...] = ()
    masked: bool = False
    unbounded: bool = False


class Entry(NamedTuple):
    """One site of the table with its static description."""

    site: Site
    infos: tuple[SiteInfo, ...]
    signature: Signature


@lru_cache(maxsize=4096)
def addresses_in(jaxpr: Any) -> frozenset[str]:
    """The site addresses of a jaxpr at any depth (a site with a dict value counts once, under its own address)."""
    return frozenset(entry.site.address for entry in _walk(jaxpr, _Around()))


def site_table(jaxpr: Any) -> dict[str, Entry]:
    """All sites by address, in program order.

    Raises:
        DuplicateAddressError: two sites that can both be met in one run have the same address.
        BranchError: two branches use one address with different shapes.
    """
    table = _merge_sequence([_equation_table(equation, _Around()) for equation in jaxpr.eqns])
    _merge_sequence([{info.address: entry} for entry in table.values() for info in entry.infos])
    return table


def _equation_table(equation: Any, around: _Around) -> dict[str, Entry]:
    name = equation.primitive.name
    if equation.primitive in jp.SITES:
        entry = _entry(equation, around)
        return {entry.site.address: entry}
    if not jp.has_sites(equation):
        return {}
    if name not in _OPEN:
        raise _closed(equation)
    if name == "cond":
        inner = around._replace(masked=True)
        return _merge_branches([_code_table(code, inner) for code in jp.inner_codes(equation)])
    return _merge_sequence([_code_table(code, _inside(equation, around)) for code in jp.inner_codes(equation)])


_OPEN = frozenset(
    {
        *("lanes", "scan", "while", "cond", "checkpoint", "remat", "remat2", "jit", "pjit", "closed_call", "core_call"),
        *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
    }
)
"""The constructs that may hold sites: an interpreter has a rule for them, or may run their body once as it stands."""


def _closed(equation: Any) -> UnsupportedPrimitiveError:
    site = next(entry.site for code in jp.inner_codes(equation) for entry in _walk(code.jaxpr, _Around()))
    return UnsupportedPrimitiveError(
        f"The site {site.address!r} at {site.source} lies inside the JAX construct {equation.primitive.name!r}, which "
        "may run its body any number of times.\n"
        "Expected: sites in jit, scan, cond, switch, while_loop, checkpoint, custom derivatives or ppl.vmap. Draw the "
        "value outside and pass it in."
    )


def _code_table(code: jp.Code, around: _Around) -> dict[str, Entry]:
    return _merge_sequence([_equation_table(equation, around) for equation in code.jaxpr.eqns])


def _walk(jaxpr: Any, around: _Around) -> Iterator[Entry]:
    for equation in jaxpr.eqns:
        if equation.primitive in jp.SITES:
            yield _entry(equation, around)
        elif jp.has_sites(equation):
            for code in jp.inner_codes(equation):
                yield from _walk(code.jaxpr, around)


def _inside(equation: Any, around: _Around) -> _Around:
    name = equation.primitive.name
    if name == "scan":
        return around._replace(axes=(*around.axes, equation.params["length"]))
    if name == "lanes":
        return around._replace(axes=(*around.axes, equation.params["size"]))
    if name == "while":
        return around._replace(unbounded=True)
    return around


def _entry(equation: Any, around: _Around) -> Entry:
    site: Site = equation.params["site"]
    signature = equation.params.get("signature") or _plain_signature(equation)
    names = addresses(site.address, signature.value_tree) if signature.value_tree else [site.address]
    infos = tuple(_info(site, name, aval, signature, around) for name, aval in zip(names, signature.avals, strict=True))
    return Entry(site, infos, signature)


def _plain_signature(equation: Any) -> Signature:
    """The signature of a factor or of a recorded value."""
    avals = tuple(atom.aval for atom in equation.invars)
    site = equation.params["site"]
    return Signature("", None, 0, equation.params.get("value_tree"), avals, site.event_rank)


def _info(site: Site, address: str, aval: Any, signature: Signature, around: _Around) -> SiteInfo:
    shape = (*around.axes, *aval.shape)
    dims = _dims(site, len(aval.shape), len(around.axes), signature.event_rank)
    source = str(site.source)
    masked, unbounded = around.masked, around.unbounded
    return SiteInfo(address, site.kind, shape, aval.dtype, dims, signature.name, source, masked, unbounded)


def _dims(site: Site, rank: int, leading: int, event_rank: int) -> tuple[str | None, ...]:
    """Plate names at the batch axes that the plates widened; batch axes come before event axes."""
    dims: list[str | None] = [None] * rank
    for frame in site.plates:
        axis = rank - event_rank + frame.dim
        if 0 <= axis < rank:
            dims[axis] = frame.name
    return (*(None for _ in range(leading)), *dims)


def _merge_sequence(tables: Sequence[dict[str, Entry]]) -> dict[str, Entry]:
    merged: dict[str, Entry] = {}
    for table in tables:
        for address, entry in table.items():
            if address in merged:
                raise _duplicate(address, merged[address].site.source, entry.site.source)
            merged[address] = entry
    return merged


def _duplicate(address: str, first: Source, second: Source) -> DuplicateAddressError:
    if first == second:
        return DuplicateAddressError(
            f"The site {address!r} at {first} is met twice in one run, both times from the same line.\n"
            "Expected: one site an address. In a Python loop, make the addresses differ (an f-string with the index), "
            "or use lax.scan, ppl.vmap or ppl.plate, which stack the choices under one address. For a function that is "
            "called twice, make it a program: `ppl.sample('part', program)` puts its addresses under 'part/'."
        )
    return DuplicateAddressError(
        f"Two sites have the address {address!r}: one at {first}, another at {second}.\n"
        "Expected: one site an address. Rename one, or nest programs: `ppl.sample('part', program)` puts a program's "
        "addresses under 'part/'."
    )


def _merge_branches(tables: Sequence[dict[str, Entry]]) -> dict[str, Entry]:
    merged: dict[str, Entry] = {}
    for table in tables:
        for address, entry in table.items():
            other = merged.setdefault(address, entry)
            if _shape_of(other) != _shape_of(entry):
                other, entry = sorted((other, entry), key=lambda e: e.site.source)
                raise BranchError(
                    f"Two branches use the address {address!r} for different things: {_describe(other)} at "
                    f"{other.site.source}, {_describe(entry)} at {entry.site.source}.\n"
                    "Expected: one kind (latent or observed), shape and dtype an address. Give the two sites "
                    "different addresses."
                )
    return merged


def _shape_of(entry: Entry) -> list[tuple[Any, ...]]:
    return [(info.address, info.kind, info.shape, info.dtype) for info in entry.infos]


def _describe(entry: Entry) -> str:
    parts = (f"{i.distribution} of shape {i.shape} and dtype {i.dtype}" for i in entry.infos)
    return f"{entry.site.kind} {', '.join(parts)}"
