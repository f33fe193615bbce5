"""The native module: functions of dicts of NumPy arrays, described where they are called (voge/backends)."""

from typing import Any

def __getattr__(name: str) -> Any: ...
