"""Random functions: programs whose value is a function.

A random element of a space of functions is again a function from randomness to that space. Here it is a pytree
(`jax.tree_util.Partial`): it can be returned from a program, passed through `jit`, and a population of functions is one
batched pytree. Two constructions, with one law (law 11: the joint law of values at any arguments agrees):

- `random_function`: values are drawn when they are asked for, each from a key of its own argument. The domain may be
  infinite. What is exact: one function uses bitwise the same random bits whenever it is asked at bitwise the same
  argument, in any order, under `jit`, `vmap` and `scan` (so the value is the same, up to how the compiler rounds what
  is computed from the bits). What is as good as the generator: values at different arguments are independent (64-bit
  keys; two arguments share a key with probability about 2^-64).
- `random_table`: all values on {0, ..., size - 1} are choices, so a density and exact enumeration are available.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Key, UInt32

from ppl.distributions.seed import Seed
from ppl.semantics.keys import address_hash
from ppl.semantics.lanes import vmap
from ppl.semantics.language import sample

_GENERATOR = "threefry2x32"


def random_function(address: str, f: Callable[..., Any]) -> Partial:
    """Draw a function: a seed is chosen at `address`, and `f` draws each value from the key of its argument.

    Args:
        address: The address of the seed (uint32, shape `(2,)`; its log density is zero).
        f: `f(key, *args)` draws the value at `args` with jax.random, or with `program.sample(key)`; it holds no sites
            of its own. To use arrays of the model in it, give a `Partial` that binds them, for example
            `Partial(lambda scale, key, x: ..., scale)`.

    Returns:
        `g` with `g(*args) = f(key of args, *args)`. Arguments are pytrees of numbers or arrays. They are compared by
        dtype, shape and bits: 2 and 2.0 are different arguments, 0.0 and -0.0 the same, and all NaNs are the same.
        Use `jax.vmap(g)` for the values at several arguments: `g(array)` is the value at one argument, the array.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl
        >>> @ppl.model
        ... def noise():
        ...     return random_function("noise", lambda key, x: jax.random.normal(key))
        >>> g = noise().sample(jax.random.key(0))
        >>> bool(g(1.5) == g(1.5)), bool(g(1.5) == g(2.5))
        (True, False)
    """
    return Partial(_value_at, f if isinstance(f, Partial) else Partial(f), sample(address, Seed()))


def _value_at(f: Callable[..., Any], seed: UInt32[Array, "2"], *args: Any) -> Any:
    return f(argument_key(jax.random.wrap_key_data(seed, impl=_GENERATOR), args), *args)


def argument_key(key: Key[Array, ""], argument: Any) -> Key[Array, ""]:
    """The key that belongs to an argument: its leaves' dtypes, shapes and bits are folded in, 32 bits at a time.

    Args:
        key: A JAX key.
        argument: A pytree of numbers or arrays.

    Returns:
        A key that is a function of `key` and the argument alone.
    """
    for leaf in jax.tree.leaves(argument):
        array = jnp.asarray(leaf)
        key = jax.random.fold_in(key, address_hash(f"{array.dtype.name}{array.shape}"))
        words = _words(array)
        if words.shape[0] == 1:
            key = jax.random.fold_in(key, words[0])
        else:
            key = jax.lax.scan(lambda k, word: (jax.random.fold_in(k, word), None), key, words)[0]
    return key


def _words(array: Array) -> UInt32[Array, "words"]:
    """The bits of an array as 32-bit words; equal numbers have equal words."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return jnp.concatenate([_words(array.real), _words(array.imag)])
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = jnp.where(jnp.isnan(array), jnp.nan, jnp.where(array == 0, 0, array)).astype(array.dtype)
        array = array.astype(jnp.float32) if array.dtype.itemsize < 4 else array
    elif array.dtype.itemsize < 4:
        array = array.astype(jnp.int32)
    return jnp.ravel(jax.lax.bitcast_convert_type(array, jnp.uint32))


def random_table(address: str, measure: Any, size: int) -> Partial:
    """Draw a function on {0, ..., size - 1}: its values are independent draws from a measure.

    Args:
        address: The address of the values, which have a leading axis of length `size` (for a `Program`, its addresses
            under `address/` have it).
        measure: The law of one value: a distribution, a `Program`, or any measure.
        size: The number of arguments.

    Returns:
        `g` with `g(i)` the value at an integer i, or the values at an integer array. Outside the domain it is NaN
        (floats) or the smallest (signed) or largest (unsigned) integer, never a neighbour's value.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def coins():
        ...     flip = random_table("flip", dist.Bernoulli(0.25), 3)
        ...     return flip(0) + flip(2)
        >>> [round(float(w), 4) for w in coins().enumerate().merged().weights]
        [0.5625, 0.375, 0.0625]
    """
    return Partial(_entry, vmap(lambda: sample(address, measure), axis_size=size)())


def _entry(table: Any, index: Any) -> Any:
    where = jnp.asarray(index)
    if not jnp.issubdtype(where.dtype, jnp.integer):
        raise TypeError(f"A random table was asked at an index of dtype {where.dtype}.\nExpected: an integer.")

    def look_up(values: Array) -> Array:
        inside = jnp.where(where < 0, np.iinfo(np.int32).max, where)
        return values.at[inside].get(mode="fill")

    return jax.tree.map(look_up, table)
