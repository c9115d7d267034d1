"""Every touch of JAX's internals: our primitives, staging, and evaluation of single equations.

A program is a jaxpr with four more primitives. `sample` (operands: the leaves of a measure and, where observed, of a
value), `factor` (operand: a log weight) and `deterministic` (operands: the leaves of a value) have no meaning of their
own: an interpreter gives them one. `lanes` holds the body of a `ppl.vmap`. Two more primitives, `lane_bits` and
`lane_key`, are random bits and keys that a `ppl.vmap` lane does not share with its neighbours although the key is
shared.

It supports jax 0.10 to 0.12. Nothing else in the package imports `jax.extend` or `jax.interpreters`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive
from jax.extend.core.primitives import random_bits_p, random_fold_in_p, random_split_p
from jax.extend.source_info_util import user_context
from jax.interpreters import ad, batching, mlir

from ppl.errors import OutsideModelError, VmapError

Operands = Sequence[Any]


class Code(NamedTuple):
    """An open jaxpr and the values of its constants."""

    jaxpr: Any
    consts: tuple[Any, ...]


class Lane(NamedTuple):
    """The axis name by which `ppl.vmap` is known from a plain `jax.vmap`."""

    depth: int


def _site_primitive(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(partial(_outside_model, name))
    primitive.def_abstract_eval(_site_avals)
    batching.fancy_primitive_batchers[primitive] = partial(_plain_vmap, primitive)
    ad.primitive_jvps[primitive] = partial(_no_derivative, name)
    mlir.register_lowering(primitive, partial(_outside_model_lowering, name))
    return primitive


def _site_avals(*_: Any, signature: Any = None, **__: Any) -> list[Any]:
    return [] if signature is None else list(signature.avals)


def _outside_model(name: str, *_: Any, site: Any, **__: Any) -> NoReturn:
    what = "..." if name == "vmap" else f"{site.address!r}, ..."
    raise OutsideModelError(
        f"ppl.{name}({what}) at {site.source} was called outside a model.\n"
        "Expected: a call inside a function decorated with @ppl.model, run through its Program "
        "(for example `model(...).simulate(key)`)."
    )


def _outside_model_lowering(name: str, _: Any, *__: Any, site: Any, **___: Any) -> NoReturn:
    _outside_model(name, site=site)


def _no_derivative(name: str, *_: Any, site: Any, **__: Any) -> NoReturn:
    raise OutsideModelError(
        f"The site {site.address!r} at {site.source} was differentiated inside a model: the parameters of ppl.{name} "
        "depend on the variable of a jax.grad or jax.jvp.\nDifferentiate the program from outside "
        "(`jax.grad` of `program.log_density`), or use an objective with gradient strategies."
    )


def _plain_vmap(
    primitive: Primitive, axis_data: Any, operands: Operands, dims: Sequence[Any], **params: Any
) -> NoReturn:
    del primitive, operands, dims
    site = params["site"]
    raise VmapError(
        f"A plain jax.vmap (over {axis_data.size} lanes) was put around the site {site.address!r} at {site.source}.\n"
        "jax.vmap would share one draw among lanes without saying so. Use ppl.vmap: it takes the same arguments and "
        "draws once per lane."
    )


sample_p = _site_primitive("sample")
factor_p = _site_primitive("factor")
deterministic_p = _site_primitive("deterministic")
lanes_p = Primitive("lanes")
lanes_p.multiple_results = True
SITES = (sample_p, factor_p, deterministic_p)


@lanes_p.def_abstract_eval
def _lanes_abstract(*_: Any, out_avals: Sequence[Any], size: int, **__: Any) -> list[Any]:
    return [ShapedArray((size, *aval.shape), aval.dtype) for aval in out_avals]


lanes_p.def_impl(partial(_outside_model, "vmap"))
batching.fancy_primitive_batchers[lanes_p] = partial(_plain_vmap, lanes_p)
ad.primitive_jvps[lanes_p] = partial(_no_derivative, "vmap")
mlir.register_lowering(lanes_p, partial(_outside_model_lowering, "vmap"))


# --- staging and evaluation ------------------------------------------------------------------------------------------


class Staged(NamedTuple):
    """A function traced to a jaxpr: `code`, the avals of its flat outputs, and their tree."""

    code: Code
    out_avals: tuple[Any, ...]
    out_tree: Any


def stage(function: Callable[..., Any], *args: Any) -> Staged:
    """Trace a function on the shapes and dtypes of its arguments (arrays or `jax.ShapeDtypeStruct`)."""
    out_trees = []

    def flat(*inner: Any) -> list[Any]:
        leaves, tree = jax.tree.flatten(function(*inner))
        out_trees.append(tree)
        return leaves

    with jax.disable_jit(disable=False):  # it would unroll the user's loops, and so repeat their sites
        closed = jax.make_jaxpr(flat)(*args)
    code = code_of(closed)
    return Staged(code._replace(jaxpr=_without_dead_code(code.jaxpr)), tuple(closed.out_avals), out_trees[0])


def _without_dead_code(jaxpr: Any) -> Any:
    """Drop equations whose results nobody reads (argument checks of distributions, above all)."""
    needed = {atom for atom in jaxpr.outvars if not is_literal(atom)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if has_sites(equation) or equation.effects or any(var in needed for var in equation.outvars):
            needed.update(atom for atom in equation.invars if not is_literal(atom))
            kept.append(equation)
    return jaxpr.replace(eqns=kept[::-1])


def code_of(jaxpr: Any) -> Code:
    """The open jaxpr and constants of a closed or open jaxpr, in either version of JAX."""
    if hasattr(jaxpr, "consts"):
        return Code(jaxpr.jaxpr, tuple(jaxpr.consts))
    return Code(jaxpr, ())


def abstract(tree: Any) -> Any:
    """The avals of a pytree of arrays, weak types included, as leaves for `stage`."""
    return jax.tree.map(aval_of, tree)


def aval_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and weak type of an array or scalar."""
    aval = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


JUMPING = frozenset(
    ("gt", "lt", "ge", "le", "floor", "ceil", "round", "sign", "argmax", "argmin", "top_k", "sort", "rem")
    + ("convert_element_type", "jit", "pjit")
)
"""Operations whose result is a discontinuous function of floats, and calls that may hold one."""


def evaluate(equation: Any, operands: Operands) -> list[Any]:
    """Run one equation as JAX would; one that may jump (`ppl.vi` looks at those) keeps the line it was written in."""
    params = equation.primitive.get_bind_params(equation.params)
    if equation.primitive.name in JUMPING:
        with user_context(equation.source_info.traceback):
            results = equation.primitive.bind(*operands, **params)
    else:
        results = equation.primitive.bind(*operands, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def is_literal(atom: Any) -> bool:
    """Whether an operand is written into the jaxpr."""
    return isinstance(atom, Literal)


def inner_codes(equation: Any) -> list[Code]:
    """The jaxprs among an equation's parameters (bodies, branches, conditions)."""
    if equation.primitive is lanes_p:
        return [equation.params["body"]]
    groups = (value if isinstance(value, tuple | list) else (value,) for value in equation.params.values())
    return [code_of(item) for group in groups for item in group if isinstance(item, Jaxpr | ClosedJaxpr)]


def has_sites(equation: Any) -> bool:
    """Whether an equation is a site or holds one in a body."""
    if equation.primitive in SITES or equation.primitive is lanes_p:
        return True
    return any(contains_sites(code.jaxpr) for code in inner_codes(equation))


@lru_cache(maxsize=4096)
def contains_sites(jaxpr: Any) -> bool:
    """Whether a jaxpr holds a site at any depth."""
    return any(has_sites(equation) for equation in jaxpr.eqns)


class Loop(NamedTuple):
    """The parts of a `scan` equation: how many operands are constants and how many are carried."""

    body: Code
    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: Any


def loop_of(equation: Any) -> Loop:
    """Read the parameters of a `scan` equation in either version of JAX."""
    params = equation.params
    if "num_consts" in params:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    else:
        num_consts, num_carry, _ = (len(part) for part in params["ft_in"].unpack())
    return Loop(code_of(params["jaxpr"]), num_consts, num_carry, params["length"], params["reverse"], params["unroll"])


def as_function(code: Code) -> Callable[..., list[Any]]:
    """The function that a site-free code computes."""
    jaxpr = code.jaxpr

    def run(*args: Any) -> list[Any]:
        environment = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*code.consts, *args), strict=True))
        for equation in jaxpr.eqns:
            results = evaluate(equation, [read(environment, atom) for atom in equation.invars])
            environment.update(zip(equation.outvars, results, strict=True))
        return [read(environment, atom) for atom in jaxpr.outvars]

    return run


def read(environment: dict[Any, Any], atom: Any) -> Any:
    """The value of an operand."""
    return atom.val if isinstance(atom, Literal) else environment[atom]


# --- draws that differ by lane although the key is shared ------------------------------------------------------------

lane_bits_p = Primitive("lane_bits")
lane_key_p = Primitive("lane_key")


@lane_bits_p.def_abstract_eval
def _lane_bits_abstract(key: Any, *, bit_width: int, shape: tuple[int, ...]) -> Any:
    return ShapedArray((*key.shape, *shape), jnp.dtype(f"uint{bit_width}"))


def _lane_bits(key: Any, *, bit_width: int, shape: tuple[int, ...]) -> Any:
    return random_bits_p.bind(key, bit_width=bit_width, shape=shape)


@lane_key_p.def_abstract_eval
def _lane_key_abstract(key: Any) -> Any:
    return key


def _lane_key(key: Any) -> Any:
    return key


def _lane_rule(
    primitive: Primitive, widen: Callable[..., Any], axis_data: Any, operands: Operands, dims: Any, **params: Any
) -> tuple[Any, int | None]:
    """An unbatched key under our lanes is widened; copies of one key (`cond` makes them) are told apart."""
    (key,), (dim,), ours = operands, dims, isinstance(axis_data.name, Lane)
    if dim is None:
        return (widen(key, axis_data.size, **params), 0) if ours else (primitive.bind(key, **params), None)
    keys = jnp.moveaxis(key, dim, 0)
    if ours:
        lane = jnp.repeat(jnp.arange(axis_data.size), keys.size // axis_data.size)
        keys = jax.vmap(jax.random.fold_in)(keys.reshape(-1), lane).reshape(keys.shape)
    return primitive.bind(keys, **params), 0


def _widened_bits(key: Any, size: int, *, bit_width: int, shape: tuple[int, ...]) -> Any:
    widened = lane_bits_p.bind(key, bit_width=bit_width, shape=(size, *shape))
    return jnp.moveaxis(widened, key.ndim, 0)


def _widened_key(key: Any, size: int) -> Any:
    split = random_split_p.bind(lane_key_p.bind(key), shape=(size,))
    return jnp.moveaxis(split, key.ndim, 0)


for _primitive, _impl, _widen in ((lane_bits_p, _lane_bits, _widened_bits), (lane_key_p, _lane_key, _widened_key)):
    _primitive.def_impl(_impl)
    mlir.register_lowering(_primitive, mlir.lower_fun(_impl, multiple_results=False))
    batching.fancy_primitive_batchers[_primitive] = partial(_lane_rule, _primitive, _widen)


def lane_sampler(sampler: Callable[..., Any], key: Any, *args: Any) -> Any:
    """Evaluate `sampler(key, *args)` so that every lane of the `ppl.vmap`s around it gets bits of its own.

    Random bits drawn straight from the shared key become one draw with a batch shape; where the key enters anything
    else (a rejection loop, `random_gamma`), it is split once per lane first.
    """
    staged = stage(sampler, key, *args)
    flat = jax.tree.leaves((key, *args))
    shared = [True] + [False] * (len(flat) - 1)
    outs = _run_lanes(staged.code, flat, shared)
    return jax.tree.unflatten(staged.out_tree, [value for value, _ in outs])


def _run_lanes(code: Code, args: Sequence[Any], shared: Sequence[bool]) -> list[tuple[Any, bool]]:
    """Interpret a sampler; `shared` marks keys that all lanes have in common."""
    jaxpr = code.jaxpr
    environment = dict(zip(jaxpr.constvars, ((const, False) for const in code.consts), strict=True))
    environment.update(zip(jaxpr.invars, zip(args, shared, strict=True), strict=True))

    def lookup(atom: Any) -> tuple[Any, bool]:
        return (atom.val, False) if isinstance(atom, Literal) else environment[atom]

    for equation in jaxpr.eqns:
        results = _lane_equation(equation, [lookup(atom) for atom in equation.invars])
        environment.update(zip(equation.outvars, results, strict=True))
    return [lookup(atom) for atom in jaxpr.outvars]


def _lane_equation(equation: Any, operands: list[tuple[Any, bool]]) -> list[tuple[Any, bool]]:
    values, shared = [value for value, _ in operands], [flag for _, flag in operands]
    primitive, name = equation.primitive, equation.primitive.name
    if not any(shared):
        return [(value, False) for value in evaluate(equation, values)]
    if primitive is random_bits_p:
        return [(lane_bits_p.bind(values[0], **equation.params), False)]
    if name in ("jit", "pjit", "closed_call"):
        return _run_lanes(inner_codes(equation)[0], values, shared)
    if (
        primitive is random_split_p
        or name in _KEY_SHAPING
        or (primitive is random_fold_in_p and is_literal(equation.invars[1]))
    ):
        return [(value, True) for value in evaluate(equation, values)]
    own = [lane_key_p.bind(value) if flag else value for value, flag in operands]
    return [(value, False) for value in evaluate(equation, own)]


_KEY_SHAPING = frozenset({"random_wrap", "slice", "squeeze", "reshape", "dynamic_slice", "broadcast_in_dim"})
"""Operations through which a key stays a key that lanes share."""
