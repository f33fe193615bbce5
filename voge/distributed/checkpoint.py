"""Checkpoints of training whose parameters and optimiser state are spread over the ranks."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from voge import checks
from voge.distributed.ranks import agree, place, share
from voge.io import atomic_path


class Checkpoint(NamedTuple):
    """What `load` returns.

    Attributes:
        step: as it was saved.
        shards: this rank's part of each sharded tensor, on the CPU.
        optimizer: for Optimizer.load_state_dict.
        shared: what was saved as such.
    """

    step: int
    shards: dict[str, Tensor]
    optimizer: dict[str, Any]
    shared: dict[str, Any]


def save(
    folder: str | os.PathLike[str],
    step: int,
    shards: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    shared: Mapping[str, Any] | None = None,
    group: Any = None,
) -> None:
    """Writes a checkpoint; all ranks call it. It counts once every rank's file is whole; then older ones are removed.

    Args:
        folder: on a file system that all ranks see; made where it is missing.
        step: how many steps are done.
        shards: this rank's part of each tensor that is spread over the ranks.
        optimizer: of tensors in `shards` and `shared`.
        shared: what is the same on all ranks: tensors, numbers, strings, lists and dicts of them.

    Raises:
        ValueError: folder cannot be written to; the optimiser has a parameter that is in neither mapping.
        RuntimeError: as `render`.
    """
    checks.integer("step", step, 0, None)
    folder, (rank, ranks), shared = Path(folder), place(group), dict(shared or {})
    parameters = [x for options in optimizer.param_groups for x in options["params"]]
    sharded = [i for i, x in enumerate(parameters) if any(x is y for y in shards.values())]
    for i, x in enumerate(parameters):
        if i not in sharded and not any(x is y for y in shared.values()):
            raise ValueError(f"optimizer: parameter {i}, {tuple(x.shape)}, is neither in shards nor in shared")
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    device = next(iter(shards.values())).device if shards else torch.device("cpu")
    agree(group, device, step=step, shards=sorted(shards), shared=sorted(shared), optimizer=sharded)
    content = {
        "shards": {name: x.detach() for name, x in shards.items()},
        "shared": {name: x.detach() if isinstance(x, Tensor) else x for name, x in shared.items()},
        "optimizer": optimizer.state_dict(),
    }
    with atomic_path(folder / _file(step, rank, ranks)) as path:
        torch.save(content, path)
    agree(group, device, saved=step)  # every file is whole
    if rank == 0:
        with atomic_path(folder / "checkpoint.json") as path:
            path.write_text(json.dumps({"step": step, "ranks": ranks, "sharded": sharded}) + "\n", encoding="utf-8")
        for old in set(folder.glob("step-*-rank-*-of-*.pt")) - {folder / _file(step, r, ranks) for r in range(ranks)}:
            old.unlink()
    agree(group, device, done=step)  # nobody writes the next one before the old ones are gone


def load(folder: str | os.PathLike[str], group: Any = None, device: torch.device | str = "cpu") -> Checkpoint | None:
    """The last complete checkpoint, or None where there is none; all ranks call it.

    On as many ranks as it was saved from, each gets its own shards, and training goes on bit for bit. On another
    number the shards are spread anew, in the same order of the scene.

    Args:
        device: that the group's backend communicates through.

    Raises:
        ValueError: files are missing or broken, or the ranks see different ones.
        RuntimeError: as `render`.
    """
    folder, (rank, ranks) = Path(folder), place(group)
    manifest = _read_manifest(folder / "checkpoint.json")
    agree(group, torch.device(device), checkpoint=manifest)
    if manifest is None:
        return None
    step, count, sharded = manifest
    if count == ranks:
        content = _read(folder / _file(step, rank, ranks))
        return Checkpoint(step, content["shards"], content["optimizer"], content["shared"])
    contents = [_read(folder / _file(step, r, count), mmap=True) for r in range(count)]

    def spread(pieces: list[Tensor]) -> Tensor:
        first, last = share(sum(map(len, pieces)), rank, ranks)
        parts = []
        for piece in pieces:
            parts.append(piece[max(first, 0) : max(last, 0)])
            first, last = first - len(piece), last - len(piece)
        return torch.cat(parts)

    optimizer = contents[0]["optimizer"]
    for i in sharded:
        for name, x in optimizer["state"].get(i, {}).items():
            if isinstance(x, Tensor) and x.dim():  # the others count steps
                optimizer["state"][i][name] = spread([c["optimizer"]["state"][i][name] for c in contents])
    shards = {name: spread([c["shards"][name] for c in contents]) for name in contents[0]["shards"]}
    return Checkpoint(step, shards, optimizer, contents[0]["shared"])


def _file(step: int, rank: int, ranks: int) -> str:
    return f"step-{step:08}-rank-{rank}-of-{ranks}.pt"


def _read_manifest(path: Path) -> tuple[int, int, list[int]] | None:
    if not path.exists():
        return None
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return int(table["step"]), int(table["ranks"]), [int(i) for i in table["sharded"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"folder: {path} is not the manifest of a checkpoint ({error!r})") from error


def _read(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"folder: cannot read {path} of the checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or set(content) != {"shards", "shared", "optimizer"}:
        raise ValueError(f"folder: {path} is not a rank's file of a checkpoint")
    return content
