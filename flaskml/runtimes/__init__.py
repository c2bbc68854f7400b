"""Runtimes: the classes that compute answers, one in each module, imported when a version first needs them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaskml.runtimes.base import Runtime
    from flaskml.store.manifest import LoadedVersion, RuntimeName

RUNTIME_CLASSES: Mapping[RuntimeName, tuple[str, str]] = {
    "sklearn": ("flaskml.runtimes.sklearn", "SklearnRuntime"),
    "onnx": ("flaskml.runtimes.onnx", "OnnxRuntime"),
}
"""The module and the class of each runtime.

To add a runtime, write a module, add a line here and the name to `RuntimeName`, and let `selection` measure it.
"""


def open_runtime(loaded: LoadedVersion) -> Runtime:
    """Return the runtime that the manifest names, ready to compute."""
    module, name = RUNTIME_CLASSES[loaded.manifest.runtime]
    runtime: Runtime = getattr(import_module(module), name).from_version(loaded)
    return runtime
