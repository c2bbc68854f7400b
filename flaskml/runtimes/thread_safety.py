"""Thread safety of estimators, decided by the libraries that the parts of an estimator come from."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from operator import attrgetter
from types import BuiltinMethodType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np

TESTED_LIBRARIES = frozenset(
    {"_loss", "flaskml", "joblib", "lightgbm", "numpy", "pandas", "scipy", "sklearn", "xgboost"}
)
"""Libraries whose estimators are tested with concurrent calls, and the libraries that these build on.

scikit-learn 1.5 has classes whose module is `_loss`, without a package.
"""

STANDARD_LIBRARY = frozenset(
    {
        *("abc", "builtins", "collections", "ctypes", "datetime", "decimal", "functools", "math", "operator"),
        *("pathlib", "weakref"),
    }
)
"""Modules of the standard library whose objects and functions may be part of an estimator."""

CYTHON_MODULE_PREFIX = "_cython_"
"""Start of the module name of the class of all compiled functions; the rest is the version of Cython."""

UNUSED_ATTRIBUTES = frozenset(
    {"callbacks", "cv", "cv_results_", "param_distributions", "param_grid", "refit", "scorer_", "scoring"}
)
"""Attributes that an estimator reads only when it is fitted or scored."""

VALUE_TYPES = frozenset({NoneType, bool, bytes, complex, float, int, str, np.bool_, np.float32, np.float64, np.int64})
"""Types of plain values, which are not visited. A vocabulary holds very many of them."""


def is_thread_safe(estimator: Any) -> bool:
    """Return whether several threads may call the estimator at once.

    Every object, function and class in the estimator must come from a tested library. An estimator with code of the
    user, or of a library that is not tested, may keep state between the steps of a call.
    """
    visited: dict[int, Any] = {}  # It holds the objects too, because an id is only unique as long as its object lives.
    waiting = [estimator]
    while waiting:
        part = waiting.pop()
        if id(part) not in visited:
            visited[id(part)] = part
            if not _is_tested(part) or _is_exception(part):
                return False
            waiting.extend(item for item in _items(part) if type(item) not in VALUE_TYPES)
    return True


def _is_exception(part: Any) -> bool:
    """Return whether the object is not thread-safe, although its library is tested."""
    # NMF.transform sets `_n_components` to "auto" and then to a number. A call that reads it in between raises.
    if type(part).__name__ == "NMF":
        return True
    # XGBoost promises thread safety only for trees: https://xgboost.readthedocs.io/en/stable/prediction.html
    return getattr(part, "__dict__", {}).get("booster") == "gblinear"


def _is_tested(part: Any) -> bool:
    """Return whether an object's class, a class or a function comes from a tested library.

    It reads no attribute of an object whose class is not tested, as that may run any code.
    """
    home = str(type(part).__module__)
    if not _is_tested_module(home) and not home.startswith(CYTHON_MODULE_PREFIX):
        return False
    if isinstance(part, type):
        return _is_tested_module(part.__module__)
    if isinstance(part, np.ufunc):  # numpy also makes ufuncs from functions of the user.
        libraries = (np, sys.modules.get("scipy.special"))
        return any(part is getattr(library, part.__name__, None) for library in libraries)
    if hasattr(part, "__qualname__") and not _has_receiver(part):
        return _is_tested_function(part)
    return _is_tested_module(home) and not isinstance(part, ModuleType)


def _is_tested_function(function: Any) -> bool:
    """Return whether a tested module has the function under its name.

    The name alone is not enough: `functools.wraps` copies it to functions of the user.
    """
    owner = getattr(function, "__objclass__", function)  # The class of a method such as `str.lower`.
    module = getattr(owner, "__module__", None)
    if not _is_tested_module(module):
        return False
    try:
        return attrgetter(function.__qualname__)(sys.modules.get(str(module))) is function
    except AttributeError:
        return False


def _is_tested_module(name: Any) -> bool:
    """Return whether a module belongs to a tested library; `_operator` is the C part of `operator`."""
    library = name.partition(".")[0] if isinstance(name, str) else ""
    return library in TESTED_LIBRARIES or library.removeprefix("_") in STANDARD_LIBRARY


def _has_receiver(part: Any) -> bool:
    """Return whether the object is a method bound to an object."""
    return isinstance(part, (MethodType, BuiltinMethodType)) and not isinstance(part.__self__, (ModuleType, NoneType))


def _items(part: Any) -> Iterator[Any]:
    """Yield the objects that an object refers to, but no numbers of an array."""
    if _has_receiver(part):
        yield from (part.__self__, getattr(part, "__func__", None))
        return
    if hasattr(part, "__qualname__"):  # A class or a function.
        return
    if isinstance(part, np.ndarray):
        yield from part.ravel().tolist() if part.dtype.hasobject else ()
    elif isinstance(part, Mapping):
        yield from part.keys()
        yield from part.values()
        yield getattr(part, "default_factory", None)
    elif isinstance(part, (list, tuple, set, frozenset, deque)):
        yield from part
    elif isinstance(part, partial):
        yield from (part.func, *part.args, *part.keywords.values())
    for name, item in getattr(part, "__dict__", {}).items():
        if name not in UNUSED_ATTRIBUTES:
            yield item
