"""The virtual environments that peers are installed into, made on demand and kept."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

COMPLETE = "complete"
SHARED = ("scikit-learn", "numpy", "scipy", "joblib")


class EnvironmentFailed(RuntimeError):
    """pip could not install what a peer needs; the message ends with what it said."""


@dataclass(frozen=True)
class Environment:
    """Packages that are installed together, with the releases of `same` that this Python has."""

    name: str
    packages: Sequence[str]
    same: Sequence[str] = SHARED

    @property
    def requirements(self) -> list[str]:
        """The packages for pip; a model is unpickled with the versions that pickled it."""
        return [*self.packages, *(f"{package}=={version(package)}" for package in self.same)]

    def folder(self, cache: Path) -> Path:
        """Return where the environment lies: other requirements, or another Python, are another one."""
        wanted = "\n".join([sys.version, *self.requirements])
        return cache / f"{self.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"

    def make(self, cache: Path) -> Path:
        """Return the folder of the environment's programs, after installing it unless that was done before."""
        folder = self.folder(cache)
        programs = folder / "bin"
        if not (folder / COMPLETE).exists():
            print(f"Making the environment {folder}", file=sys.stderr, flush=True)
            # An interrupted run leaves an incomplete environment.
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            _run([str(programs / "python"), "-m", "pip", "install", "--quiet", *self.requirements])
            (folder / COMPLETE).touch()
        return programs

    def releases(self, cache: Path) -> list[str]:
        """Return what is installed of the packages that were asked for, as name==version."""
        names = {requirement.partition("[")[0].partition("=")[0] for requirement in (*self.packages, *self.same)}
        frozen = _run([str(self.make(cache) / "python"), "-m", "pip", "freeze"]).splitlines()
        return [line for line in frozen if line.partition("==")[0].lower() in names]


def default_cache() -> Path:
    """Return the folder for environments below the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flaskml-bench"


def _run(command: Sequence[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode != 0:
        raise EnvironmentFailed(f"{' '.join(command)} failed:\n{finished.stdout[-1000:]}{finished.stderr[-3000:]}")
    return finished.stdout
