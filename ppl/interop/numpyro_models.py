"""NumPyro models as programs: `from_numpyro(model)(*args, **kwargs) -> Program`.

A NumPyro model is a Python function that sends messages to a stack of handlers. It is run once, while our program is
traced, under one more handler at the bottom of the stack, which gets each message after all others (plates, mask,
scale, condition, reparam, ...) have treated it and writes our site for it. Law: the joint density of the program is
`numpyro.infer.util.log_density` of the model, and its addresses and shapes are those of NumPyro's trace.
"""

from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax import lax
from numpyro import handlers
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import _PYRO_STACK, Messenger

from ppl.distributions.subset import RandomSubset
from ppl.errors import PplError
from ppl.interop.numpyro_loops import Loop, Step
from ppl.interop.numpyro_sites import NumpyroSite, emit
from ppl.semantics import scope
from ppl.semantics.language import deterministic, sample
from ppl.semantics.model import model as ppl_model
from ppl.semantics.site import PlateFrame, user_source

Message = dict[str, Any]


class NumpyroModelError(PplError):
    """A NumPyro model uses a statement that has no meaning as a measure."""


def from_numpyro(model: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a NumPyro model into a maker of programs, unchanged.

    Works for models with `sample` (observed or not, `obs_mask` too), `plate` (nested, subsampled), `factor`,
    `deterministic`, `contrib.control_flow.scan` and `cond`, and for models wrapped in `handlers.reparam`, `condition`,
    `do`, `substitute`, `scale`, `mask`, `scope`, `lift`, `uncondition`.

    - A substituted value is a fixed choice: a prior term. A `param` has its initial value and no site.
    - Where the density of a latent choice is not that of its draws (mask, scale, subsampled plate, `ImproperUniform`),
      it is drawn from a normalised law, and the trace's weight carries the rest.
    - A subsampled plate is a latent choice of indices under the plate's name, with log density 0.
    - Data under a mask are replaced by a feasible value: they count for nothing.
    - A site in a reversed scan is indexed by its position in `xs`.

    Args:
        model: A function with NumPyro statements, or such a function wrapped in handlers. Arrays among its arguments
            are traced; bind data that the model needs as concrete values with `functools.partial`.

    Returns:
        A function of the model's arguments that returns a `Program`.

    Raises:
        NumpyroModelError: for `numpyro.prng_key` (and what needs it: `handlers.block` around latent sites, a `param`
            with a random initial value), `numpyro.mutable`, and neural network modules without given parameters.

    Examples:
        >>> import numpyro, numpyro.distributions as dist
        >>> def coin(y):
        ...     p = numpyro.sample("p", dist.Beta(2.0, 3.0))
        ...     numpyro.sample("y", dist.Bernoulli(p), obs=y)
        >>> round(float(from_numpyro(coin)(1).log_density({"p": 0.5})), 3)
        -0.288
    """
    return ppl_model(Translated(model))


@dataclass(frozen=True)
class Translated:
    """A NumPyro model as a function of our sites; equal for the same model, so that staging is cached by the model."""

    numpyro_model: Callable[..., Any]

    @property
    def __name__(self) -> str:
        """The model's name."""
        return getattr(self.numpyro_model, "__name__", type(self.numpyro_model).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model under a fresh translation; the stack of handlers is left as it was, whatever happens."""
        with Translation():
            return self.numpyro_model(*args, **kwargs)


class Translation(Messenger):
    """The outermost handler of a NumPyro model: it writes our sites and lets no message pass."""

    def __init__(self) -> None:
        super().__init__()
        self.subsets: ChainMap[str, Any] = ChainMap()

    def process_message(self, msg: Message) -> None:
        """Take a message that all handlers of the model have treated."""
        self.relay(msg, (), self)

    def relay(self, msg: Message, loops: tuple[Loop, ...], origin: Messenger) -> None:
        """Take a message from inside loops; `origin` is the handler that received it there."""
        del loops
        msg["stop"] = True
        if msg["type"] not in _RULES:
            _refuse(msg, f"a statement of type {msg['type']!r} is not known.")
        _RULES[msg["type"]](self, msg, origin)

    @contextmanager
    def body(self) -> Iterator[None]:
        """What is drawn inside a body of control flow stays inside."""
        outer, self.subsets = self.subsets, self.subsets.new_child()
        try:
            yield
        finally:
            self.subsets = outer


def _sample(translation: Translation, msg: Message, _: Messenger) -> None:
    del translation
    fn = msg["fn"].expand((*msg["kwargs"].get("sample_shape", ()), *msg["fn"].batch_shape))
    msg["kwargs"]["sample_shape"] = ()
    msg["value"] = emit(NumpyroSite(msg["name"], fn, msg["value"], msg["is_observed"], msg["scale"], _frames(msg)))


def _deterministic(translation: Translation, msg: Message, _: Messenger) -> None:
    del translation
    with scope.entered(scope.current()._replace(plates=_frames(msg))):
        deterministic(msg["name"], msg["value"])


def _plate(translation: Translation, msg: Message, _: Messenger) -> None:
    """Draw the indices of a subsampled plate, once for all plates of that name; a full plate has its value already."""
    if msg["value"] is None:
        if msg["name"] not in translation.subsets:
            translation.subsets[msg["name"]] = sample(msg["name"], RandomSubset(*msg["args"]))
        msg["value"] = translation.subsets[msg["name"]]
    elif not isinstance(msg["value"], jax.Array):
        msg["value"] = jnp.asarray(msg["value"])


def _frames(msg: Message) -> tuple[PlateFrame, ...]:
    """The plates around a site, outermost first; NumPyro has expanded and scaled already, so their scale is 1."""
    frames = {f.name: PlateFrame(f.name, f.size, f.size, f.dim) for f in msg["cond_indep_stack"]}
    return tuple(reversed(frames.values()))


def _control_flow(translation: Translation, msg: Message, origin: Messenger) -> None:
    rule = {scan_wrapper: _scan, cond_wrapper: _cond}.get(msg["fn"])
    if rule is None:
        _refuse(msg, f"control flow by {getattr(msg['fn'], '__name__', msg['fn'])!r} is not known.")
    rule(translation, msg, origin)


def _scan(translation: Translation, msg: Message, origin: Messenger) -> None:
    f, init, xs, length, reverse = msg["args"]
    steps = jnp.shape(jax.tree.leaves(xs)[0])[0] if length is None else length

    def body(carry: Any, indexed: Any) -> Any:
        index, x = indexed
        with translation.body(), Step(origin, Loop(index, steps)):
            return f(carry, x)

    carry, ys = lax.scan(body, init, (jnp.arange(steps), xs), length=steps, reverse=reverse)
    msg["value"] = (steps, None, carry), (PytreeTrace({}), ys)


def _cond(translation: Translation, msg: Message, _: Messenger) -> None:
    pred, true_fun, false_fun, operand = msg["args"]

    def branch(f: Callable[..., Any]) -> Callable[..., Any]:
        def run(operand: Any) -> Any:
            with translation.body():
                return f(operand)

        return run

    value = lax.cond(pred, branch(true_fun), branch(false_fun), operand)
    msg["value"] = value, PytreeTrace({})


def _param(_: Translation, msg: Message, __: Messenger) -> None:
    if msg["value"] is None and len(msg["args"]) == 1 and msg["args"][0] is None:
        _refuse(msg, "it has no initial value (neural network modules ask for parameters in this way); substitute one.")


def _prng_key(_: Translation, msg: Message, __: Messenger) -> None:
    seeded = msg["kwargs"]["rng_key"] is not None
    if not seeded and not any(isinstance(handler, handlers.uncondition) for handler in _PYRO_STACK):
        _refuse(
            msg,
            "numpyro.prng_key() draws a key that has no address. handlers.block around a latent site, and a param "
            "whose initial value is a function, ask for one too. Draw with numpyro.sample, or pass a key as argument.",
        )


def _mutable(_: Translation, msg: Message, __: Messenger) -> None:
    _refuse(msg, "numpyro.mutable keeps state between runs; a measure has none. Pass the state as an argument.")


def _leave(_: Translation, msg: Message, __: Messenger) -> None:
    """`subsample` and `inspect` are answered by the plates and masks around them."""
    del msg


def _refuse(msg: Message, why: str) -> NoReturn:
    name = msg.get("name") or f"numpyro.{msg['type']}"
    raise NumpyroModelError(f"from_numpyro cannot translate {name!r} at {user_source()}: {why}")


_RULES: dict[str, Callable[[Translation, Message, Messenger], None]] = {
    "sample": _sample,
    "deterministic": _deterministic,
    "plate": _plate,
    "control_flow": _control_flow,
    "param": _param,
    "prng_key": _prng_key,
    "mutable": _mutable,
    "subsample": _leave,
    "inspect": _leave,
}
