"""One scene on two processes beside one: python -m benchmarks.distributed [--quick] [--out FOLDER].

Follows distributed.yaml and writes results/distributed.json and results/distributed-exchange.json. It starts torchrun
with itself as worker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import voge
import voge.distributed
from benchmarks import command, results, scenes

PROTOCOL = "benchmarks/distributed.yaml"
ONE, TWO = "one process, 1 thread", "one process, 2 threads"


def worker(protocol: dict[str, Any], file: Path) -> None:
    """What each rank does; rank 0 writes the measurements."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    size, num = tuple(protocol["image_size"]), protocol["gaussians"]
    scene = scenes.sphere(protocol["scene"], num, size)
    K = torch.tensor([[scene.focal, 0.0, size[1] / 2], [0.0, scene.focal, size[0] / 2], [0.0, 0.0, 1.0]])
    cameras = voge.Cameras(torch.eye(3), torch.zeros(3), K, size)
    upstream = torch.rand(*size, scene.features.shape[1], generator=torch.Generator().manual_seed(0))
    precisions = scene.precision * torch.eye(3).repeat(num, 1, 1)

    def alone(means: Tensor, features: Tensor) -> list[Tensor]:
        means, features = means.clone().requires_grad_(), features.clone().requires_grad_()
        picture = voge.render(voge.Gaussians(means, precisions), cameras, features, **protocol["ours"]).features
        return list(torch.autograd.grad(picture, [means, features], upstream))

    def shared(means: Tensor, features: Tensor) -> tuple[voge.distributed.Part, list[Tensor]]:
        means, features = means.clone().requires_grad_(), features.clone().requires_grad_()
        gaussians = voge.Gaussians(means, precisions[: len(means)])
        part = voge.distributed.render(gaussians, cameras, features, **protocol["ours"])
        grads = torch.autograd.grad(part.rendering.features, [means, features], part.cut(upstream))
        return part, list(grads)

    columns = 3 + 9 + scene.features.shape[1]

    def megabytes(part: voge.distributed.Part) -> float:
        away = torch.tensor(sum(part.sent) - part.sent[rank])
        dist.all_reduce(away)
        return 2 * 4 * columns * away.item() / 1e6  # there, and the gradients back

    times: dict[str, list[float]] = {"ours": [], ONE: [], TWO: []}
    seconds: dict[str, list[float]] = {arm: [] for arm in times}
    exchange: dict[str, list[float]] = {"ours": [], "shards sorted by height": [], "every Gaussian to every rank": []}
    share, errors = [], []
    for seed in protocol["seeds"]:
        order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
        means, features = scene.means[order], scene.features[order]
        mine = [voge.distributed.shard(x) for x in (means, features)]
        part, grads = shared(*mine)
        for got, whole in zip(grads, alone(means, features), strict=True):
            want = voge.distributed.shard(whole)
            errors.append(((got - want).abs().max() / whole.abs().max()).item())
        if max(errors) > protocol["tolerance"]:
            raise RuntimeError(f"the gradients of rank {rank} are wrong by {max(errors):.1e}")
        exchange["ours"].append(megabytes(part))
        exchange["every Gaussian to every rank"].append(2 * 4 * columns * num * (ranks - 1) / 1e6)
        sort = means[:, 1].argsort()
        exchange["shards sorted by height"].append(
            megabytes(shared(*(voge.distributed.shard(x[sort]) for x in (means, features)))[0])
        )
        share.append(sum(part.received))
        arms: dict[str, tuple[int, bool, Callable[[], Any]]] = {
            "ours": (1, True, lambda mine=mine: shared(*mine)),
            ONE: (1, False, lambda scene=(means, features): alone(*scene)),
            TWO: (2, False, lambda scene=(means, features): alone(*scene)),
        }
        turns: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(protocol["repeats"]):
            for arm, (threads, both, call) in arms.items():
                torch.set_num_threads(threads)
                dist.barrier()
                start = time.perf_counter()
                if both or rank == 0:
                    call()
                dist.barrier()  # a waiting rank sleeps
                turns[arm].append(time.perf_counter() - start)
        for arm, values in turns.items():
            times[arm].append(1e3 * statistics.median(values))
            seconds[arm].append(sum(values))
    if rank == 0:
        received = {"received_by_rank_0": share, "gradient_error": max(errors)}
        file.write_text(json.dumps({"times": times, "seconds": seconds, "exchange": exchange} | received))
    dist.destroy_process_group()


def main() -> None:
    parser = command.parser("distributed", __doc__)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    p = command.protocol(PROTOCOL)
    if options.quick:
        p |= {"gaussians": 2000, "image_size": [64, 64], "repeats": 2}
    if options.worker:
        worker(p, options.worker)
        return
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}): times will be too long.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(p["ranks"])]
        line += ["-m", "benchmarks.distributed", "--worker", str(file), *(["--quick"] if options.quick else [])]
        subprocess.run(line, check=True, cwd=results.ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
        measured = json.loads(file.read_text())
    settings = {key: p[key] for key in ("scene", "gaussians", "image_size", "ranks", "ours", "repeats")}
    settings |= {key: measured[key] for key in ("received_by_rank_0", "gradient_error")}
    for name, metric, runs, seconds in (
        ("distributed", "forward + backward, ms", measured["times"], measured["seconds"]),
        ("distributed-exchange", "exchanged in a step by all ranks, MB", measured["exchange"], {}),
    ):
        result = results.make(
            name, metric, runs, protocol=PROTOCOL, settings=settings, seeds=p["seeds"], seconds=seconds
        )
        results.show(result, command.folder(options))


if __name__ == "__main__":
    main()
