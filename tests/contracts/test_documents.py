"""The documents' code runs, block after block in one namespace, without a warning."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text):
    """Each block with as many blank lines in front as make its line numbers those of the page."""
    return ["\n" * text[: found.start(1)].count("\n") + found.group(1) for found in BLOCK.finditer(text)]


LONG = [pytest.param(page, marks=pytest.mark.slow) for page in ("docs/mcmc.md", "docs/smc.md", "docs/vi.md")]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", *LONG])
def test_code_runs(page):
    path = ROOT / page
    found = blocks(path.read_text())
    assert found
    space = {"__name__": f"docs_{path.stem}"}
    for block in found:
        exec(compile(block, str(path), "exec"), space)
