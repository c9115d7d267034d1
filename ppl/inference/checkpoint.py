"""Checkpoints of runs: where every group of chains stands and what it has kept, in one file, whole or not at all.

Law: a run that is killed at any time and started again with the same arguments gives the same draws, bit for bit, as
one that was not. A file of another run (other program, data, key or settings) is refused, and nothing is overwritten.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppl.errors import FileFormatError
from ppl.inference.runner import Group, Sampler, Track, joined
from ppl.inference.storage import flatten_tree, read, unflatten_tree, write
from ppl.semantics.program import Program

KIND = "chains"
SECONDS = 5.0
"""The least time between two saves."""
SHARE = 50.0
"""A save is made at most every so many times the time that the last one took: under 2% of the run."""


def fingerprint(program: Program, key: Any, method: str, settings: Any) -> dict[str, str]:
    """What tells runs apart, part by part: program, data, key, method, settings.

    A program is its name, its sites, its code (a jaxpr without line numbers, so that comments may change) and the
    numbers and arrays in it.
    """
    sites = {a: (i.kind, i.shape, str(i.dtype), i.distribution) for a, i in program.sites.items()}
    constants = (np.asarray(x).tobytes() for x in program.staged.code.consts)
    return {
        "program": digest(repr((program.name, sites)), lasting(_without_lines(str(program.jaxpr))), *constants),
        "data": digest(*(np.asarray(x).tobytes() for x in program.dynamic)),
        "key": digest(np.asarray(jax.random.key_data(key)).tobytes()),
        "method": lasting(method),
        "settings": lasting(repr(settings)),
    }


def _without_lines(code: str) -> str:
    """A jaxpr's text without the lines of the user's code at which its sites stand."""
    return re.sub(r" @ [^\]\n]*:\d+\]", "]", code)


def lasting(text: str) -> str:
    """A text without the addresses of objects in memory, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def digest(*parts: str | bytes) -> str:
    """Sixteen letters that tell texts and bytes from others."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()[:16]


class LastingFile:
    """A file that is rewritten from time to time, whole or not at all, and read by the run alone that wrote it.

    Args:
        path: The file.
        kind: What is in it.
        identity: What tells the run from others, part by part.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, identity: dict[str, str]) -> None:
        self.path, self.kind, self.identity = Path(path), kind, identity
        self._last, self._cost = time.monotonic(), 0.0

    def save(self, contents: Callable[[], tuple[dict[str, Any], dict[str, Any]]], *, lazily: bool = False) -> None:
        """Save arrays and a record; lazily: only where the last save is long enough ago."""
        now = time.monotonic()
        if lazily and now - self._last < max(SECONDS, SHARE * self._cost):
            return
        arrays, record = contents()
        write(self.path, self.kind, arrays, {"identity": self.identity, **record})
        self._last = time.monotonic()
        self._cost = self._last - now

    def saved(self, run: str, wrote: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The saved arrays and record; None where there is no file.

        Args:
            run: What wrote the file, for messages ("run", "fit").
            wrote: What is to be the same in that which reads it, for messages.

        Raises:
            FileFormatError: the file is damaged, or of another run.
        """
        if not self.path.exists():
            return None
        arrays, record = read(self.path, self.kind)
        if differing := [name for name, x in self.identity.items() if record["identity"].get(name) != x]:
            raise FileFormatError(
                f"The checkpoint {str(self.path)!r} is of another {run}: other {', '.join(differing)}.\n"
                f"Expected: the {run} that wrote it: {wrote}.\n"
                "Fix: give the same arguments, another path, or delete the file to start anew."
            )
        return arrays, record


class Checkpoint:
    """Saves tracks to a file, and finds them there again.

    Args:
        path: The file.
        identity: The `fingerprint` of the run.
    """

    def __init__(self, path: Any, identity: dict[str, str]) -> None:
        self.file = LastingFile(path, KIND, identity)

    def __call__(self, tracks: list[Track | None], *, lazily: bool = False) -> None:
        """Save; lazily: only where the last save is long enough ago."""

        def contents() -> tuple[dict[str, Any], dict[str, Any]]:
            arrays, structure = flatten_tree([None if t is None else _saved(t) for t in list(tracks)], "tracks")
            return arrays, {"structure": structure}

        self.file.save(contents, lazily=lazily)

    def tracks(self, sampler: Sampler, groups: list[Group]) -> list[Track | None] | None:
        """The saved tracks; None where there is no file.

        Raises:
            FileFormatError: the file is damaged, or of another run.
        """
        same = "the same arguments of ppl.infer, and the same model, with the same numbers in its code"
        found = self.file.saved("run", same)
        if found is None:
            return None
        saved = unflatten_tree(found[1]["structure"], found[0])
        return [_restored(sampler, group, x) for group, x in zip(groups, saved, strict=True)]


def _saved(track: Track) -> dict[str, Any]:
    leaves = [np.asarray(x) for x in jax.tree.leaves(track.carry)]
    return {"carry": leaves, "kept": joined(track.batches)}


def _restored(sampler: Sampler, group: Group, saved: Any) -> Track | None:
    if saved is None:
        return None
    tree = jax.tree.structure(sampler.start(group.chains, group.device))
    carry = jax.tree.unflatten(tree, [np.asarray(x) for x in saved["carry"]])
    kept = saved["kept"]
    return Track(carry, () if kept is None else (jax.tree.map(np.asarray, kept),))
