"""Programs whose choices are drawn and not differentiated."""

from typing import Any

from ppl.semantics.binding import bind_sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import SampleSite
from ppl.semantics.rewrites import Rewrite, placed
from ppl.vi.pathwise import Noise


def held(program: Program) -> Program:
    """The program whose choices are drawn and held fixed, whatever strategies they have."""
    return Program.of(_held, (program,))


def _held(program: Program) -> Any:
    return program.rewrite(_Holds())


class _Holds(Rewrite):
    """Gives every choice the strategy of noise."""

    def site(self, node: SampleSite, read: Any) -> Any:
        """Bind the choice again."""
        del read
        return bind_sample(placed(node.site._replace(grad=Noise())), node.measure, node.observed)
