"""Entries found by file name: one module is one entry, so adding a file adds the entry."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from handrail.envs.errors import HandrailError, nearest


def names(package: str) -> list[str]:
    """Return the sorted names of the public modules directly inside `package` (a dotted name)."""
    root = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(root.__path__) if not m.name.startswith("_"))


def load(package: str, name: str, kind: str) -> ModuleType:
    """Import the module `name` of `package`.

    Args:
        package: dotted package name, e.g. `handrail.envs.logs.readers`.
        name: the entry, which is the module's file name.
        kind: what an entry is called in the error ("reader", "experiment", …).

    Raises:
        HandrailError: there is no such module; the message lists the nearest names.
    """
    known = names(package)
    if name not in known:
        raise HandrailError(f"unknown {kind} {name!r}{nearest(name, known)}")
    return importlib.import_module(f"{package}.{name}")
