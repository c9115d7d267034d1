"""Settings that hold for every test: typed calls, no silent broadcasting, seeded keys, one hypothesis profile.

The import hook comes first, before anything imports `ppl`: it makes every annotated function of the package
check its arguments (jaxtyping dimensions included) while the tests run, and costs users nothing.
"""

import hashlib
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

jaxtyping.install_import_hook("ppl", "beartype.beartype")

CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax"

MOST_MAPS = 30_000
"""Half of what Linux allows a process (`vm.max_map_count`)."""

jax.config.update("jax_numpy_rank_promotion", "raise")
# Reruns read their executables from here; the keys of the cache contain the jaxlib version and the flags.
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)

settings.register_profile("ppl", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("ppl")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Examples in the docstrings of algorithms compile whole algorithms: they are run with the slow tests."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.nodeid.startswith(("ppl/inference/", "ppl/vi/")):
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="module")
def _executables_are_freed():
    """Thousands of executables in one process run into the system's limit on memory maps, and end in a crash."""
    yield
    if _memory_maps() > MOST_MAPS:
        jax.clear_caches()


def _memory_maps():
    maps = Path("/proc/self/maps")
    return len(maps.read_text().splitlines()) if maps.exists() else 0


def _seed(request):
    """A number that depends on the test's name alone: not on the clock, the order, the folder or the worker."""
    digest = hashlib.sha256(request.node.nodeid.split("/")[-1].encode()).digest()
    return int.from_bytes(digest[:4], "big")


@pytest.fixture
def key(request):
    """A JAX key of the test's own."""
    return jax.random.key(_seed(request))


@pytest.fixture
def float64():
    """Double precision while a test runs; for a whole file: `pytestmark = pytest.mark.usefixtures("float64")`."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng(request):
    """A NumPy generator of the test's own."""
    return np.random.default_rng(_seed(request))
