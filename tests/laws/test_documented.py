"""`docs/semantics.md` names tests that exist: each law with a test and, but for those in `NO_MUTANT`, a mutant."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAWS = range(1, 42)
NO_MUTANT = {39}
"""Laws that are tested in part; their rows say so."""


def rows():
    lines = (ROOT / "docs" / "semantics.md").read_text().splitlines()
    return {cells[1].strip(): cells for cells in (line.split("|") for line in lines) if len(cells) == 6}


def named_tests(cells):
    """(file, function) of each `file::name`; a bare `::name` is in the file named before it."""
    file = ""
    for path, name in re.findall(r"`([\w/.]*)::(\w+)`", "|".join(cells)):
        file = path or file
        yield file, name


def test_every_law_has_a_test_that_exists_and_a_mutant():
    table = rows()
    for law in LAWS:
        cells = table[str(law)]
        assert list(named_tests(cells[3:4])), f"law {law} names no test"
        assert (cells[4].strip() in ("", "none yet")) == (law in NO_MUTANT), f"law {law} names no mutant"
        for file, name in named_tests(cells):
            path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / "laws" / file
            assert f"def {name}(" in path.read_text(), f"{file}::{name} of law {law} does not exist"


def test_every_mutant_is_documented_and_used():
    source = (ROOT / "tests" / "laws" / "mutants.py").read_text()
    documented = (ROOT / "docs" / "semantics.md").read_text()
    mutants = re.findall(r"^def ([a-z]\w*)\(", source, re.MULTILINE)
    helpers = {"double", "triple", "smc_with"}
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "laws").glob("test_*.py"))
    assert len(mutants) > 20
    for name in set(mutants) - helpers:
        assert f"`{name}`" in documented, name
        assert f"mutants.{name}" in tests, name
