"""What the Gibbs kernels have in common: which addresses they take, and the density of a block of one choice."""

from typing import Any

from ppl.errors import AddressError, BranchError
from ppl.semantics import choices as ch
from ppl.semantics.program import Program
from ppl.semantics.protocol import Handler
from ppl.semantics.slicing import switched
from ppl.semantics.staging import unknown_address


def chosen_addresses(program: Program, addresses: tuple[str, ...], kernel: str) -> tuple[str, ...]:
    """Addresses that a Gibbs kernel can take, one site each.

    Raises:
        AddressError: an address is unknown, not latent, or one of several of a site; or there are none.
        BranchError: an address lies in a branch, or decides which choices are made.
    """
    staged = program.staged
    ch.refuse_unbounded(staged, "kernel")
    known = ch.latent_infos(staged)
    if not addresses:
        raise AddressError(
            f"The kernel {kernel} found no latent choice of {program.name!r} that it can draw.\n"
            f"Its latent choices: {', '.join(f'{a!r} ({i.distribution})' for a, i in known.items()) or 'none'}.\n"
            "Fix: name the addresses to see why, or use ppl.Gibbs(), ppl.MH() or ppl.NUTS()."
        )
    for address in addresses:
        if address not in known:
            raise unknown_address(address, staged.infos, "draw")
        if address not in staged.table:
            raise AddressError(
                f"The address {address!r} ({known[address].source}) is one of several of one site.\n"
                "Expected: a site whose value is one array. Use ppl.MH() for it."
            )
    refuse_branches(program, addresses)
    return addresses


def refuse_branches(program: Program, addresses: tuple[str, ...]) -> None:
    """Raise where the choices made may change with these choices.

    Raises:
        BranchError: naming the address and its line.
    """
    masked = [a for a in addresses if program.sites[a].masked]
    if masked:
        raise BranchError(
            f"The choice {masked[0]!r} ({program.sites[masked[0]].source}) lies inside a branch: not every run makes "
            "it.\nExpected: choices that every run makes. Use ppl.MH(), or draw it outside the branch."
        )
    for address in addresses:
        inside = switched(program, (address,))
        if inside:
            raise BranchError(
                f"The choice {address!r} ({program.sites[address].source}) decides whether {inside} are made.\n"
                "Expected: a choice on which the set of choices does not depend. Use ppl.MH()."
            )


def whole(sliced: Program, handler: Handler, address: str, value: Any) -> Any:
    """The total of a handler over a block of one choice."""
    return sliced.run(handler, {address: value})[1].total
