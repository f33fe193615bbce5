"""Who is there: the place of this process among the ranks, what all must agree on, and what to do when one is gone."""

from __future__ import annotations

import os
import platform
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_HOST = zlib.crc32(platform.node().encode())
_processes: dict[Any, list[tuple[int, int]]] = {}  # group -> (host, process) of each rank, for messages


def place(group: Any) -> tuple[int, int]:
    """The rank of this process and the number of ranks; RuntimeError before init_process_group."""
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "torch.distributed is not initialised: start the script with torchrun and call "
            'torch.distributed.init_process_group("gloo") first'
        )
    return dist.get_rank(group), dist.get_world_size(group)


def share(num: int, rank: int, ranks: int) -> tuple[int, int]:
    """First and last (excluded) of the rank's even share of `num` things."""
    return num * rank // ranks, num * (rank + 1) // ranks


def shard(x: Tensor, group: Any = None) -> Tensor:
    """This rank's share of x (N, ...), a copy: the whole may be freed. Shares differ by one row at most."""
    first, last = share(len(x), *place(group))
    return x[first:last].clone()


_VALUES = 8  # at most, in a call of `agree`


def agree(group: Any, device: torch.device, **values: Any) -> None:
    """ValueError, on all ranks, where the values (with a repr that tells them apart) differ between them."""
    values = {"calls of voge.distributed": list(values)} | values
    sums = [zlib.crc32(repr(value).encode()) for value in values.values()]
    mine = torch.tensor([_HOST, os.getpid(), *sums, *[0] * (_VALUES - len(sums))], dtype=torch.int64, device=device)
    table = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    with together(group, "comparing arguments"):
        dist.all_gather(table, mine, group)
    hosts, processes, *columns = torch.stack(table, 1).tolist()
    _processes[group] = list(zip(hosts, processes, strict=True))
    for (name, value), column in zip(values.items(), columns, strict=False):
        others = [rank for rank, x in enumerate(column) if x != column[0]]
        if others:
            raise ValueError(
                f"{name}: expected the same on every rank, got another on rank {others[0]} than on rank 0 "
                f"(here, rank {dist.get_rank(group)}: {value!r:.200})"
            )


def checksum(x: Tensor) -> int:
    """Of its bytes."""
    return zlib.crc32(x.detach().cpu().contiguous().numpy().data)


@contextmanager
def together(group: Any, task: str) -> Iterator[None]:
    """Around what all ranks do together: RuntimeError saying who is gone, and what to do."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {dist.get_rank(group)}: {task} failed, because {_ended(group)}. Start the job again: with "
            f"voge.distributed.load it goes on from its last checkpoint ({str(error).splitlines()[0]})"
        ) from error


def _ended(group: Any) -> str:
    """Which ranks are gone, as far as this machine's processes tell."""
    for _ in range(20):  # a process that is being killed closes its connections a little before it is gone
        peers = enumerate(_processes.get(group, []))
        gone = [f"rank {rank} (process {p})" for rank, (host, p) in peers if host == _HOST and not _runs(p)]
        if gone:
            return f"{' and '.join(gone)} ended"
        time.sleep(0.01)
    return "another rank ended, or did not answer in time"


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc/self").exists()  # without /proc nothing is known
    return state not in ("Z", "X")
