"""What computes: each runtime is one module, imported when the first version that needs it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaskml.runtimes.base import Runtime
    from flaskml.store.manifest import LoadedVersion

RUNTIME_CLASSES: Mapping[str, str] = {
    "sklearn": "flaskml.runtimes.sklearn",
    "sklearn-unchecked": "flaskml.runtimes.sklearn",
    "onnx": "flaskml.runtimes.onnx",
}
"""The module of each runtime; it has a function `open_runtime(bundle)`."""


def open_runtime(bundle: LoadedVersion) -> Runtime:
    """The runtime that the bundle's manifest names, ready to compute. Raises KeyError for one that is not known."""
    runtime: Runtime = import_module(RUNTIME_CLASSES[bundle.manifest.runtime]).open_runtime(bundle)
    return runtime
