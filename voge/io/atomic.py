"""Writing files so that a crash never leaves half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path in the folder of `path` (same suffix) to write to; renamed to `path` on success, removed on
    any error.

    Raises ValueError where the folder is missing or cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    if path.is_dir():
        raise ValueError(f"path: {path} is a folder, expected the name of a file")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise ValueError(f"path: cannot write to folder {path.parent} ({error.strerror})") from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
