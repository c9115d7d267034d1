"""Whole particle runs inside a kernel: their draws are sites of the kernel, and one path comes out of them as a state.

A run is a layer at the end of a sweep, unconditional or conditional. `run_of` binds its draws under `name/` in the
program being traced, so that a kernel that runs particles can be enumerated like any other; `one_path` draws one of the
last particles in proportion to weight and follows its ancestors back.
"""

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Categorical

from ppl.inference.drawing import Drawn
from ppl.inference.kernels import State
from ppl.inference.particle_paths import paths
from ppl.numerics.weights import has_mass
from ppl.semantics import choices as ch
from ppl.semantics import scope
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite
from ppl.semantics.representations import Population
from ppl.semantics.rewrites import Rewrite, bind_again
from ppl.semantics.site import Site
from ppl.semantics.stages import Loop, plan_of


class Writing(Rewrite):
    """Bind choices as they are and write them, too; recorded values are written, not recorded."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Bind and write."""
        del read, where
        value = bind_again(node)
        return Outcome(value, (), value if node.observed is None else None)

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Write the value."""
        del site, where
        return Outcome(None, (), value)


def run_of(layer: Population, name: str) -> Drawn:
    """Run the layer at the end of a sweep inside the program being traced, its draws at sites under `name/`."""
    with scope.under(name):
        value, result = layer.program.run(Writing())
    return Drawn(value, jnp.zeros((), jnp.result_type(float)), result.writes, result.masks)


def with_path(program: Program, drawn: Drawn, choices: Choices) -> Drawn:
    """A conditional run in which the first particle has its retained choices; the sites hold what it drew in vain.

    Args:
        program: The program that was swept.
        drawn: The run.
        choices: The retained values by site.
    """
    writes = dict(drawn.writes)
    for stage in plan_of(program).stages:
        first = (slice(None), 0) if isinstance(stage, Loop) else 0
        for address in sorted(stage.addresses & choices.keys()):
            put = jax.tree.map(lambda x, value, first=first: x.at[first].set(value), writes[address], choices[address])
            writes[address] = put
    return drawn._replace(writes=writes)


def one_path(program: Program, drawn: Drawn, address: str) -> State:
    """Draw one of the last particles in proportion to weight, at a site; its path as a state of the program.

    Where no particle has weight it is the first, so that a conditional run gives back the path that it retained.

    Args:
        program: The program that was swept, over its whole length.
        drawn: The run.
        address: The site at which the particle is drawn.
    """
    index = one_of(drawn.value.log_weight, 0, address)
    return state_of(program, *jax.tree.map(lambda x: x[0], paths(program, drawn, index[None])))


def one_of(log_weights: Any, own: Any, address: str) -> Any:
    """A place in proportion to weight, drawn at a site; a place of one's own where none has weight."""
    alone = jnp.where(jnp.arange(log_weights.shape[0]) == own, 0.0, -jnp.inf)
    return sample(address, Categorical(logits=jnp.where(has_mass(log_weights), log_weights, alone)))


def state_of(program: Program, written: Choices, masks: Choices) -> State:
    """The state of a path, from its values and masks by site."""
    staged = program.staged
    infos = ch.latent_infos(staged)
    values = {a: jnp.asarray(x, infos[a].dtype) for a, x in ch.flatten(written, staged, ("latent",)).items()}
    return State(values, ch.spread(masks, staged))


def share_changed(old: State, new: State) -> Any:
    """The share of a state's elements that changed."""
    pairs = zip(jax.tree.leaves(old.choices), jax.tree.leaves(new.choices), strict=True)
    changed = [jnp.ravel(a != b) for a, b in pairs]
    return jnp.mean(jnp.concatenate(changed).astype(jnp.result_type(float))) if changed else jnp.zeros(())
