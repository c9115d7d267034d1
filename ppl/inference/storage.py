"""One file for arrays and what must be known of them: safetensors with a JSON header. No pickle.

Law: `read(write(x)) == x` bit for bit, dtypes included (float64 where x64 is off, bfloat16, complex128 and PRNG
keys too), or `read` raises `FileFormatError`. A file is written beside its place and moved there when it is
complete, so a crash leaves the old file as it was. It knows nothing of posteriors: see `ppl.inference.posterior`.
"""

import collections
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ppl.errors import FileFormatError
from ppl.semantics.site import SiteInfo

FORMAT = "quasiborel"
VERSION = 1

Arrays = Mapping[str, Shaped[Array | np.ndarray, "..."]]


def write(path: str | os.PathLike[str], kind: str, arrays: Arrays, record: Mapping[str, Any]) -> None:
    """Write arrays and a JSON record to one file, whole or not at all.

    Args:
        path: the file; an old one is replaced.
        kind: what the file holds, such as `"posterior"`.
        arrays: arrays by name, PRNG key arrays included.
        record: anything that JSON can hold.

    Raises:
        FileFormatError: the directory does not exist, or a dtype cannot be stored.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir() or target.is_dir():
        raise FileFormatError(
            f"Cannot write {str(path)!r}.\nExpected: a file name in a directory that exists.\n"
            f"Got: {'a directory' if target.is_dir() else f'no directory {str(target.parent)!r}'}.\n"
            "Fix: make the directory, or correct the path."
        )
    stored = {name: _to_stored(name, array) for name, array in arrays.items()}
    tensors = {name: tensor for name, (tensor, _) in stored.items()}
    dtypes = {name: dtype for name, (_, dtype) in stored.items()}
    body = json.dumps({"kind": kind, "dtypes": dtypes, "record": record})
    header = {"format": FORMAT, "version": str(VERSION), "body": body}
    header["sha256"] = _digest(body, tensors)
    _replace(target, save(tensors, metadata=header))


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `write` wrote.

    Args:
        path: the file.
        kind: what the file must hold.

    Returns:
        Arrays by name, and the record. Arrays are JAX arrays, except that those of 64 bits stay NumPy arrays
        while JAX runs without x64: it would cut them to 32 bits.

    Raises:
        FileFormatError: the file is missing, foreign, damaged, of another version, or holds something else.
    """
    header, tensors = _open(path)
    if header.get("format") != FORMAT:
        raise _failure(path, "is a safetensors file, but not one of QuasiBorel's", "Give the file that `save` wrote.")
    if header.get("version") != str(VERSION):
        raise _failure(
            path,
            f"has format version {header.get('version')}, but this release reads version {VERSION}",
            "Read it with the release that wrote it, or update quasiborel.",
        )
    if header.get("sha256") != _digest(header.get("body", ""), tensors):
        raise _failure(path, "is damaged: its checksum does not match", "Restore it from a copy.")
    body = json.loads(header["body"])
    if body["kind"] != kind:
        raise _failure(path, f"holds a {body['kind']}, not a {kind}", "Load it where it belongs.")
    arrays = {name: _from_stored(tensors[name], dtype) for name, dtype in body["dtypes"].items()}
    return arrays, body["record"]


def flatten_tree(tree: Any, name: str) -> tuple[dict[str, Any], Any]:
    """Split a tree of dicts, lists, tuples, named tuples and None into arrays and a JSON structure.

    Args:
        tree: the tree; Python numbers become arrays.
        name: prefix of the arrays' names.

    Returns:
        Arrays by name, and a structure for `unflatten_tree`.

    Raises:
        FileFormatError: a node is of another type, such as a function.
    """
    arrays: dict[str, Any] = {}

    def walk(node: Any) -> Any:
        if node is None:
            return None
        if isinstance(node, dict) and all(isinstance(key, str) for key in node):
            return {"dict": {key: walk(child) for key, child in node.items()}}
        if isinstance(node, tuple) and (names := getattr(node, "_fields", None)) is not None:
            fields = [[field, walk(child)] for field, child in zip(names, node, strict=True)]
            return {"named": type(node).__name__, "fields": fields}
        if isinstance(node, list | tuple):
            return {type(node).__name__: [walk(child) for child in node]}
        if isinstance(node, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            leaf = f"{name}/{len(arrays)}"
            arrays[leaf] = node if isinstance(node, jax.Array) else np.asarray(node)
            return {"array": leaf}
        raise FileFormatError(
            f"Cannot store {name!r}: it holds a {type(node).__name__}.\n"
            "Expected: arrays in dicts (with string keys), lists, tuples and named tuples; functions and other "
            "objects would need a pickle, which runs code when it is read.\n"
            f"Fix: leave it out with dataclasses.replace(posterior, {name}=None)."
        )

    return arrays, walk(tree)


def flatten_storable(tree: Any, name: str) -> tuple[dict[str, Any], Any, str | None]:
    """Like `flatten_tree`, but a tree that cannot be stored becomes None, as a whole.

    Args:
        tree: any tree.
        name: prefix of the arrays' names.

    Returns:
        Arrays by name, a structure for `unflatten_tree`, and why the tree was left out (None: it was not).
    """
    try:
        arrays, structure = flatten_tree(tree, name)
        for leaf, array in arrays.items():
            _check_dtype(leaf, array.dtype)
    except FileFormatError as error:
        return {}, None, str(error).splitlines()[0]
    return arrays, structure, None


def unflatten_tree(structure: Any, arrays: Mapping[str, Any]) -> Any:
    """Put a tree together again; a named tuple gets a new class of the same name and fields."""
    if structure is None:
        return None
    if "array" in structure:
        return arrays[structure["array"]]
    if "dict" in structure:
        return {key: unflatten_tree(child, arrays) for key, child in structure["dict"].items()}
    if "named" in structure:
        names = [field for field, _ in structure["fields"]]
        children = [unflatten_tree(child, arrays) for _, child in structure["fields"]]
        return collections.namedtuple(structure["named"], names)(*children)
    make, children = next((make, structure[make.__name__]) for make in (list, tuple) if make.__name__ in structure)
    return make(unflatten_tree(child, arrays) for child in children)


def site_record(info: SiteInfo) -> dict[str, Any]:
    """What is known of a site, as JSON can hold it."""
    return info._asdict() | {"dtype": str(info.dtype)}


def site_of(record: dict[str, Any]) -> SiteInfo:
    """The inverse of `site_record`."""
    dtype = record["dtype"]
    kept: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in record.items()}
    kept["dtype"] = dtype if dtype.startswith("key<") else jnp.dtype(dtype)
    return SiteInfo(**kept)


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    if not Path(path).is_file():
        what = "is a directory" if Path(path).is_dir() else "does not exist"
        raise _failure(path, what, f"Correct the path; the working directory is {os.getcwd()!r}.")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise _failure(
            path, f"is not a safetensors file, or it is damaged or cut short ({error})", "Restore it from a copy."
        ) from error


def _failure(path: str | os.PathLike[str], what: str, fix: str) -> FileFormatError:
    return FileFormatError(f"{os.fspath(path)!r} {what}.\nExpected: a file that `save` wrote, whole.\nFix: {fix}")


def _digest(body: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(body.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _to_stored(name: str, array: Any) -> tuple[np.ndarray, str]:
    """The array as safetensors can hold it, and what it was."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return np.array(jax.random.key_data(array)), f"key:{jax.random.key_impl(array)}"
    plain = np.array(array, order="C")
    if plain.dtype == np.complex128:
        return plain.reshape(*plain.shape, 1).view(np.float64), "complex128"
    _check_dtype(name, plain.dtype)
    return plain, str(plain.dtype)


def _check_dtype(name: str, dtype: Any) -> None:
    """Raise where a dtype (PRNG keys' aside) has no place in a file."""
    if getattr(dtype, "kind", "V") in "OSUMm":
        raise FileFormatError(
            f"Cannot store {name!r}: its dtype is {dtype}.\nExpected: numbers, booleans or PRNG keys."
        )


def _from_stored(tensor: np.ndarray, dtype: str) -> Shaped[Array | np.ndarray, "..."]:
    if dtype.startswith("key:"):
        return jax.random.wrap_key_data(jnp.asarray(tensor), impl=dtype.removeprefix("key:"))
    if dtype == "complex128":
        tensor = tensor.view(np.complex128)[..., 0]
    if jax.dtypes.canonicalize_dtype(tensor.dtype) != tensor.dtype:
        return tensor
    return jnp.asarray(tensor)
