"""Files: what is written comes back bit for bit, or an error says what is wrong with the file."""

import json
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

import ppl.inference.storage as storage
from ppl.errors import FileFormatError

ARRAYS = {
    "float64": np.array([[0.1, -np.inf, np.nan]]),
    "float32": np.array(2.5, np.float32),
    "float16": np.array([1.5], np.float16),
    "bfloat16": np.array([1.0, 3.0], ml_dtypes.bfloat16),
    "int64": np.array([2**62 + 1]),
    "int8": np.array([[-3], [4]], np.int8),
    "uint32": np.array([2**32 - 1], np.uint32),
    "uint64": np.array([2**64 - 1], np.uint64),
    "bool": np.array([True, False]),
    "complex64": np.array([1 - 2j], np.complex64),
    "complex128": np.array([[0.1 + 0.3j]]),
    "empty": np.zeros((0, 3), np.float32),
    "a/b c:<é>": np.arange(6, dtype=np.int32).reshape(2, 3)[:, ::-1],
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "x.safetensors"
    storage.write(file, "thing", {"a": np.arange(100.0, dtype=np.float32)}, {"n": 1})
    return file


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_bit_for_bit(tmp_path, name):
    storage.write(tmp_path / "x", "thing", {name: ARRAYS[name]}, {"a": [1, None, "é"]})
    arrays, record = storage.read(tmp_path / "x", "thing")
    assert arrays[name].dtype == ARRAYS[name].dtype
    assert arrays[name].shape == ARRAYS[name].shape
    assert np.asarray(arrays[name]).tobytes() == np.ascontiguousarray(ARRAYS[name]).tobytes()
    assert record == {"a": [1, None, "é"]}


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_come_back_with_their_generator(tmp_path, impl):
    keys = jax.random.split(jax.random.key(7, impl=impl), 3)
    storage.write(tmp_path / "x", "thing", {"k": keys}, {})
    back = storage.read(tmp_path / "x", "thing")[0]["k"]
    assert back.dtype == keys.dtype
    assert (jax.random.key_data(back) == jax.random.key_data(keys)).all()


def test_every_flipped_byte_is_noticed(path):
    whole = bytearray(path.read_bytes())
    for position in [0, 9, 40, 120, len(whole) // 2, len(whole) - 200, len(whole) - 1]:
        damaged = whole.copy()
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"x\.safetensors"):
            storage.read(path, "thing")


@pytest.mark.parametrize("length", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_noticed(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileFormatError, match="cut short"):
        storage.read(path, "thing")


@pytest.mark.parametrize("content", [b"hello", b"\x80\x04}.", b"PK\x03\x04" * 20, b"\xff" * 64])
def test_a_foreign_file_is_noticed(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FileFormatError, match="not a safetensors file"):
        storage.read(tmp_path / "x", "thing")


def test_foreign_tensors_other_versions_and_other_kinds_are_named(tmp_path, path):
    foreign = tmp_path / "foreign"
    foreign.write_bytes(save({"a": np.ones(2)}))
    with pytest.raises(FileFormatError, match="not one of QuasiBorel's"):
        storage.read(foreign, "thing")
    foreign.write_bytes(save({}, metadata={"format": "quasiborel", "version": "99"}))
    with pytest.raises(FileFormatError, match="format version 99"):
        storage.read(foreign, "thing")
    with pytest.raises(FileFormatError, match="holds a thing, not a posterior"):
        storage.read(path, "posterior")


def test_missing_files_and_directories_are_named(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        storage.read(tmp_path / "none", "thing")
    with pytest.raises(FileFormatError, match="is a directory"):
        storage.read(tmp_path, "thing")
    with pytest.raises(FileFormatError, match="no directory"):
        storage.write(tmp_path / "no" / "x", "thing", {}, {})
    with pytest.raises(FileFormatError, match="a directory"):
        storage.write(tmp_path, "thing", {}, {})


def test_a_crash_while_writing_leaves_the_old_file(path, monkeypatch):
    def crash(*_):
        raise OSError("disk full")

    old = path.read_bytes()
    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        storage.write(path, "thing", {"a": np.zeros(3)}, {})
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]


class Pair(NamedTuple):
    left: object
    right: object


def test_trees_come_back():
    tree = {"a": [jnp.arange(3), None, (1.5, True)], "b": Pair(np.float32(2.0), {}), "c": ()}
    arrays, structure = storage.flatten_tree(tree, "values")
    back = storage.unflatten_tree(json.loads(json.dumps(structure)), arrays)
    assert back["b"]._fields == ("left", "right")
    assert back["b"].right == {}
    assert back["c"] == ()
    assert back["a"][1] is None
    assert isinstance(back["a"][2], tuple)
    assert [float(x) for x in jax.tree.leaves(back["a"][2])] == [1.5, 1.0]
    assert back["a"][0].tolist() == [0, 1, 2]


def test_what_would_need_a_pickle_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="holds a Partial.*\n.*pickle"):
        storage.flatten_tree([jax.tree_util.Partial(jnp.sin)], "values")
    with pytest.raises(FileFormatError, match="dtype"):
        storage.write(tmp_path / "x", "thing", {"a": np.array(["text"])}, {})
