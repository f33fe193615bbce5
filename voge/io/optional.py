"""Libraries that only some functions need."""

from __future__ import annotations

import importlib
from types import ModuleType


def library(name: str, extra: str = "io") -> ModuleType:
    """Imports the module `name`; ImportError naming the extra of this package that brings it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed here: pip install 'voge[{extra}]'") from error
