"""Photographs from public packages, kept in a cache outside the repository: $VOGE_CACHE or ~/.cache/voge."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """Where data come from. `probe` is a file that is there once the package is unpacked."""

    name: str
    kind: str  # "Debian" or "PyPI"
    megabytes: int
    licence: str
    holds: str
    probe: str


FILM = Package(
    "visp-images-data", "Debian", 75, "GPL-2", "218 frames of a textured 84 mm box, with the pose of frame 0",
    "usr/share/visp-images-data/ViSP-images/mbt/cube/image0217.pgm",
)  # fmt: skip
BOARDS = (
    Package(
        "opencv-doc", "Debian", 96, "Apache-2.0 and BSD-3-Clause", "13 photographs of a chessboard, calibrated",
        "usr/share/doc/opencv-doc/examples/data/left14.jpg",
    ),
    Package(
        "mvtb-data==1.6.1", "PyPI", 130, "MIT", "the same photographs and calibration",
        "mvtbdata/images/calibration/left14.jpg",
    ),
)  # fmt: skip


class Unavailable(Exception):
    """Data that could not be had; the message says why and what to do."""


def cache() -> Path:
    """The folder that fetched packages are unpacked in."""
    return Path(os.environ.get("VOGE_CACHE") or Path.home() / ".cache" / "voge")


def fetch(*packages: Package) -> tuple[Path, Package]:
    """The folder of the first of these packages that is in the cache or can be downloaded, and which one it is.

    Raises:
        Unavailable: naming every package and what failed.
    """
    for package in packages:
        if (_folder(package) / package.probe).exists():
            return _folder(package), package
    failures = []
    for package in packages:
        try:
            _download(package)
            return _folder(package), package
        except Unavailable as error:
            failures.append(f"{package.kind} package {package.name}: {error}")
    raise Unavailable("; ".join(failures))


def _folder(package: Package) -> Path:
    return cache() / package.name.replace("==", "-")


def _download(package: Package) -> None:
    """Downloads and unpacks into a temporary folder beside the final one, then renames: nothing is left half done."""
    try:
        cache().mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache()))
    except OSError as error:
        raise Unavailable(f"cannot write to {cache()} ({error.strerror}); set VOGE_CACHE to another folder") from error
    try:
        if package.kind == "Debian":
            for tool in ("apt-get", "dpkg"):
                if shutil.which(tool) is None:
                    raise Unavailable(f"{tool} is not on this machine (it comes with Debian and Ubuntu)")
            _run(
                ["apt-get", "download", package.name],
                temporary,
                "no network, or package lists missing: sudo apt-get update",
            )
            archive = next(temporary.glob("*.deb"))
            _run(["dpkg", "-x", archive.name, "."], temporary, "the archive is broken")
            archive.unlink()
        else:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", ".", package.name]
            _run(pip, temporary, "no network?")
        if not (temporary / package.probe).exists():
            raise Unavailable(f"it holds no {package.probe}")
        shutil.rmtree(_folder(package), ignore_errors=True)
        temporary.replace(_folder(package))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _run(command: list[str], folder: Path, hint: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise Unavailable(f"{command[0]} failed: {lines[-1]} ({hint})")
