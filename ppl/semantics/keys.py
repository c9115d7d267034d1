"""Randomness by address: the key of a choice depends on the run's key, its address and its loop indices alone."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_key(key: Any) -> Any:
    """A typed JAX key from an int seed, a raw key or a typed key.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(key, int | np.integer):
        return jax.random.key(int(key))
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"The key is a {type(key).__name__}.\nExpected: an int seed, or a JAX key from jax.random.key.")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(jnp.asarray(key)) if key.ndim else jax.random.key(key)


def site_key(key: Any, address: str, loop: tuple[Any, ...]) -> Any:
    """The key of a choice: from the run's key, its address and its loop indices, never from the order of evaluation."""
    derived = jax.random.fold_in(key, address_hash(address))
    for index in loop:
        derived = jax.random.fold_in(derived, index)
    return derived


def address_hash(address: str) -> int:
    """A stable 32-bit hash of an address."""
    return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=4).digest(), "little")
