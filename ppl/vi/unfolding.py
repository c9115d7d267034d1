"""Measures that an objective takes apart: choices of noise, and a function of them whose density is known at the draw.

`vi.simulate` asks such a measure to bind its noise itself. The law is the same; the density costs no way back from the
value, and each choice of noise has a strategy of its own.
"""

from typing import Any, Protocol, runtime_checkable

from ppl.semantics.site import Site


@runtime_checkable
class Unfolds(Protocol):
    """A measure that can be bound as choices of noise."""

    def unfolded(self, site: Site) -> tuple[Any, Any]:
        """Bind choices of noise in place of one at `site`.

        Returns:
            The value, and its log density under the measure (nats); both are differentiable.
        """
        ...
