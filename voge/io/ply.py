"""PLY files: what the header announces, checked against the size of the file, and point clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from voge.io.objects import PointCloud, as_points
from voge.io.optional import library

_FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
_BYTES = {
    "char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2,
    "int": 4, "uint": 4, "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}  # fmt: skip
_LONGEST_HEADER = 1 << 20


class Element(NamedTuple):
    """An element of a header: how many rows it announces, the names of its scalar properties and of its lists."""

    rows: int
    scalars: tuple[str, ...]
    lists: tuple[str, ...]


def read_header(path: Path) -> dict[str, Element]:
    """The elements that a PLY file announces.

    Raises:
        ValueError: not a PLY header, or one that announces more than the file can hold.
    """
    with path.open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    end = head.find(b"\nend_header")
    if not head.startswith(b"ply") or end < 0:
        raise ValueError("not a PLY file: no header from 'ply' to 'end_header'")
    body = path.stat().st_size - (end + len("\nend_header\n"))
    elements: dict[str, Element] = {}
    form, least, row, name = "", 0, 0, ""

    for line in head[:end].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        try:
            if words[:1] == ["format"]:
                form = words[1]
            elif words[:1] == ["element"]:
                name, row = words[1], 0
                elements[name] = Element(int(words[2]), (), ())
            elif words[:1] == ["property"]:
                count, scalars, lists = elements[name]
                is_list = words[1] == "list"
                row = _BYTES[words[2] if is_list else words[1]]  # of a list, at least its length
                least += count * (row if form != "ascii" else 2)  # of a text, a digit and a blank
                elements[name] = Element(
                    count, scalars + (() if is_list else (words[2],)), lists + ((words[4],) if is_list else ())
                )
        except (IndexError, KeyError, ValueError):
            raise ValueError(f"has a line in its PLY header that cannot be read: {line[:80]!r}") from None
    if form not in _FORMATS:
        raise ValueError(f"has PLY format {form[:80]!r}, expected one of {', '.join(_FORMATS)}")
    for name, element in elements.items():
        if element.rows < 0:
            raise ValueError(f"announces {element.rows} rows of {name!r}")
    if "vertex" not in elements:
        raise ValueError("has no element 'vertex'")
    if least > body + 1:  # the last blank of a text may be missing
        rows = ", ".join(f"{element.rows} of {name!r}" for name, element in elements.items())
        raise ValueError(f"truncated: its header announces {rows}, at least {least} bytes, it holds {body}")
    return elements


def read_vertices(path: Path) -> Any:
    """The rows of element 'vertex' as a structured array; ValueError where the file does not hold what it announces."""
    if read_header(path)["vertex"].lists:
        raise ValueError("has lists among the properties of its vertices")
    plyfile = library("plyfile")
    try:
        return plyfile.PlyData.read(path)["vertex"].data
    except (plyfile.PlyParseError, ValueError, OSError, LookupError, MemoryError) as error:
        raise ValueError(f"cannot be read as PLY ({error})") from error


def load_points(path: Path) -> PointCloud:
    """The point cloud of a PLY file: x, y, z; colours red, green, blue; normals nx, ny, nz."""
    rows = read_vertices(path)
    points = columns(rows, "x", "y", "z")
    if points is None:
        raise ValueError("has vertices without x, y, z")
    cloud = PointCloud(torch.from_numpy(points).float())
    colors, normals = _colors(rows), columns(rows, "nx", "ny", "nz")
    if colors is not None:
        cloud = cloud._replace(colors=torch.from_numpy(colors))
    if normals is not None:
        cloud = cloud._replace(normals=torch.from_numpy(normals))
    return as_points(cloud)


def save_points(path: Path, cloud: PointCloud) -> None:
    """Writes a binary PLY: float32 points and normals, uint8 colours."""
    named = {"x y z": (cloud.points, "f4"), "nx ny nz": (cloud.normals, "f4"), "red green blue": (cloud.colors, "u1")}
    rows: dict[str, np.ndarray] = {}
    for names, (value, kind) in named.items():
        if value is not None:
            array = value.detach().cpu().numpy()
            array = np.rint(array.clip(0, 1) * 255) if kind == "u1" else array
            rows |= {name: array[:, i].astype(kind) for i, name in enumerate(names.split())}
    write_vertices(path, rows)


def write_vertices(path: Path, rows: dict[str, np.ndarray]) -> None:
    """Writes a binary PLY of one element 'vertex' with a scalar property for each named column."""
    plyfile = library("plyfile")
    table = np.empty(len(next(iter(rows.values()))), [(name, column.dtype) for name, column in rows.items()])
    for name, column in rows.items():
        table[name] = column
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")]).write(str(path))


def columns(rows: Any, *names: str) -> np.ndarray | None:
    """Columns of a structured array side by side as float64, None where one of them is missing."""
    if not set(names) <= set(rows.dtype.names):
        return None
    return np.stack([rows[name].astype(np.float64) for name in names], -1)


def _colors(rows: Any) -> np.ndarray | None:
    colors = columns(rows, "red", "green", "blue")
    if colors is None:
        return None
    kind = rows.dtype["red"]
    return colors / np.iinfo(kind).max if kind.kind in "iu" else colors
