"""Errors that name the file they are about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The Path of an existing file; what goes wrong with it inside becomes a ValueError that names it."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path: {path} is not a file")
    try:
        yield path
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"path: {path}: {error}") from error
