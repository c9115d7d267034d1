"""Automatic guides: laws over all latent choices of a program, with densities on their supports.

`guide = vi.guides.mean_field(program)`; `params = guide.init(key)`; `guide(params)` is a program.
"""

from ppl.vi.guides.flow import flow
from ppl.vi.guides.full_rank import full_rank
from ppl.vi.guides.guide import Guide
from ppl.vi.guides.laplace import laplace
from ppl.vi.guides.low_rank import low_rank
from ppl.vi.guides.map import map
from ppl.vi.guides.mean_field import mean_field

__all__ = ["Guide", "flow", "full_rank", "laplace", "low_rank", "map", "mean_field"]
