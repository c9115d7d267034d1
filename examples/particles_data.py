"""Data sets from the wheel of `particles` 0.4, which is downloaded as a file: nothing is installed, nothing committed.

    python examples/particles_data.py        downloads the wheel and says what is in it

`particles` (Nicolas Chopin; MIT licence) pins numpy < 2, so that it cannot be installed beside JAX; its wheel holds
data sets whose evidence is known well. The wheel comes from the package index through `pip download` (0.7 MB; pip's
settings and proxies hold), its SHA-256 is checked, and it stays in `~/.cache/quasiborel` (or
`$XDG_CACHE_HOME/quasiborel`). Regression data are prepared as `particles.datasets` does it: predictors with mean 0 and
standard deviation 0.5, a column of ones before them, and each row multiplied by its response, which is -1 or 1.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from io import StringIO
from pathlib import Path

import numpy as np

REQUIREMENT = "particles==0.4"
WHEEL = "particles-0.4-py3-none-any.whl"
SHA256 = "c3ffb52fdd6945ba477bf2eb49ecd777a94ffd6547d8712b580f07419d083a3a"
TIME_LIMIT = 120


class DataUnavailableError(RuntimeError):
    """The wheel is not in the cache, and cannot be downloaded."""


def cache_folder() -> Path:
    """Where the wheel is kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "quasiborel"


def wheel() -> Path:
    """The wheel in the cache folder, downloaded where it is missing.

    Raises:
        DataUnavailableError: If it is missing and the package index cannot be reached, or the file is another one.
    """
    path = cache_folder() / WHEEL
    if not path.exists():
        _download(path.parent)
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
    if found != SHA256:
        raise DataUnavailableError(
            f"{path}: expected SHA-256 {SHA256}, got {found}.\nFix: delete the file and try again."
        )
    return path


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--no-deps", "--only-binary", ":all:"]
    command += ["--retries", "1", "--quiet", "--dest", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or error).strip().splitlines()[-1:]
        raise DataUnavailableError(
            f"pip could not download {REQUIREMENT}: {' '.join(said)}\n"
            f"Fix: go online, or put {WHEEL} from https://pypi.org/project/particles/0.4/#files into {folder}."
        ) from error


def text(name: str) -> str:
    """A data file of the wheel."""
    with zipfile.ZipFile(wheel()) as archive:
        return archive.read(f"particles/datasets/{name}").decode("latin-1")


def pounds_for_a_dollar() -> np.ndarray:
    """750 daily log returns of the pound against the dollar, in per cent, from 1997 on (GBP_vs_USD_9798)."""
    rates = np.loadtxt(StringIO(text("GBP_vs_USD_9798.txt")), skiprows=2, usecols=3, comments="(C)")
    return 100.0 * np.diff(np.log(rates))


def pima() -> np.ndarray:
    """Diabetes among 768 women, 8 predictors: rows of the design times the response (768, 9)."""
    return _signed(np.loadtxt(StringIO(text("pima-indians-diabetes.data")), delimiter=","))


def eeg() -> np.ndarray:
    """Open or closed eyes by 14 electrodes: rows of the design times the response (14980, 15)."""
    return _signed(np.loadtxt(StringIO(text("eeg_eye_state.data")), delimiter=",", skiprows=19))


def sonar() -> np.ndarray:
    """Rock or mine by 60 bands of a sonar's echo: rows of the design times the response (208, 61)."""
    rows = text("sonar.all-data").replace("R", "1").replace("M", "0")
    return _signed(np.loadtxt(StringIO(rows), delimiter=","))


def _signed(table: np.ndarray) -> np.ndarray:
    predictors = table[:, :-1]
    scaled = 0.5 * (predictors - predictors.mean(axis=0)) / predictors.std(axis=0)
    design = np.concatenate([np.ones((len(table), 1)), scaled], axis=1)
    return design * (2.0 * table[:, -1:] - 1.0)


def main() -> None:
    """Download, and say what is there."""
    print(f"Wheel: {wheel()}")
    for load in (pounds_for_a_dollar, pima, eeg, sonar):
        print(f"{load.__name__:>20} {load().shape!s:<12} {load.__doc__}")


if __name__ == "__main__":
    main()
