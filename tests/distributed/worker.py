"""A rank of the jobs in tests/test_distributed.py: python -m torch.distributed.run ... worker.py FOLDER TASK ..."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import re
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import cases  # beside this file
import torch
import torch.distributed as dist
from torch import Tensor

import voge
import voge.distributed

STEPS = 12


def sizes(num: int, ranks: int) -> list[int]:
    """Uneven shards, of three ranks the middle one empty."""
    return [num // 4, num - num // 4] if ranks == 2 else [num // 4, 0, num - num // 4]


def compare(folder: Path) -> None:
    """Every case: the gathered pictures, the loss, the gradients of the shard and of what all ranks have."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for name, case in cases.cases().items():
        shard = {key: x.split(sizes(len(x), ranks))[rank] for key, x in case.gaussians.items()}
        x = cases.leaves(case, shard)
        if name == "fixed" and rank == 0:
            x["features"].requires_grad_(False)  # on one rank only
        positional, settings = cases.arguments(case, x)
        part = voge.distributed.render(*positional, split=case.split, **settings)
        rendering = {field: value for field, value in part.rendering._asdict().items() if value is not None}
        pictures = {field: part.gather(value) for field, value in rendering.items()}
        loss = part.rendering.alpha.new_zeros(())
        for field, value in rendering.items():
            loss = loss + (value * part.cut(cases.weights(pictures[field]))).sum()
        loss.backward()
        grads = {key: value.grad for key, value in x.items()}
        counts = {"sent": part.sent, "received": part.received, "edges": part.edges}
        result = {"pictures": pictures, "loss": loss.detach(), "grads": grads} | counts
        torch.save(result, folder / f"{name}-{rank}.pt")


def disagree(folder: Path) -> None:
    """Arguments that differ between the ranks, and must not."""
    rank = dist.get_rank()
    scene = cases.scene(20, 3, torch.float64)
    pose = cases.cameras((16, 16), torch.float64)
    messages = []
    gaussians, features = voge.Gaussians(scene["means"], scene["precisions"]), scene["features"]
    camera = voge.Cameras(**pose, image_size=(16, 16))
    other = voge.Cameras(**pose | {"t": pose["t"] + rank}, image_size=(16, 16))
    background = torch.ones(3, dtype=torch.float64) if rank else None
    render = voge.distributed.render
    for call in (
        lambda: render(gaussians, camera, features[:, : 3 - rank]),
        lambda: render(gaussians, other, features),
        lambda: render(gaussians, camera, features, background=background),
        lambda: render(gaussians, camera, features) if rank else voge.distributed.load(folder),
    ):
        try:
            call()
        except ValueError as error:
            messages.append(str(error))
    torch.save(messages, folder / f"disagree-{rank}.pt")


def views(folder: Path) -> None:
    """The other way: every rank has all Gaussians and takes its own views; torch's DistributedDataParallel."""

    class Scene(torch.nn.Module):
        def __init__(self, x: dict[str, Tensor]) -> None:
            super().__init__()
            self.x = torch.nn.ParameterDict(x)

        def forward(self, view: voge.Cameras) -> Tensor:
            return voge.render(voge.Gaussians(self.x["means"], self.x["precisions"]), view, self.x["features"]).features

    scene, view = views_scene()
    model = torch.nn.parallel.DistributedDataParallel(Scene(scene))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model(view[rank::ranks]).square().mean().backward()
    torch.save({name: x.grad for name, x in model.module.x.items()}, folder / f"parallel-{rank}.pt")


def views_scene() -> tuple[dict[str, Tensor], voge.Cameras]:
    """Gaussians and six views, a number that two and three ranks share evenly."""
    size = (24, 32)
    return cases.scene(100, 3, torch.float64, density=False), voge.Cameras(
        **cases.cameras(size, torch.float64, (6,)), image_size=size
    )


def train(folder: Path, name: str, last_step: int) -> None:
    """Fits shards to a picture; before step `last_step` the last rank kills itself: what is not saved is lost."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's may come before the others' error is written
    rank, ranks = dist.get_rank(), dist.get_world_size()
    size, channels = (40, 48), 3
    target = cases.scene(80, channels, torch.float32, density=False)
    view = voge.Cameras(**cases.cameras(size, torch.float32), image_size=size)
    photo = voge.render(voge.Gaussians(target["means"], target["precisions"]), view, target["features"]).features
    checkpoint = voge.distributed.load(folder / name)
    if checkpoint is None:
        scene = cases.scene(90, channels, torch.float32, density=False, seed=3)
        shards = {key: x.split(sizes(len(x), ranks))[rank].clone() for key, x in scene.items()}
        tau = torch.ones(())
    else:
        shards, tau = checkpoint.shards, checkpoint.shared["absorptivity"]
    first = checkpoint.step if checkpoint else 0
    parameters = {key: shards[key].requires_grad_() for key in ("means", "features")}
    tau.requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": parameters["means"], "lr": 3e-3}, {"params": [parameters["features"], tau], "lr": 2e-2}]
    )
    if checkpoint:
        optimizer.load_state_dict(checkpoint.optimizer)
    losses = []
    for step in range(first, STEPS):
        if step == last_step and rank == ranks - 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        gaussians = voge.Gaussians(parameters["means"], shards["precisions"])
        part = voge.distributed.render(gaussians, view, parameters["features"], absorptivity=tau)
        loss = (part.rendering.features - part.cut(photo)).square().sum() / photo.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 3 == 0:
            kept = {**parameters, "precisions": shards["precisions"]}
            voge.distributed.save(folder / name, step + 1, kept, optimizer, {"absorptivity": tau})
    result = {key: x.detach() for key, x in {**parameters, "absorptivity": tau}.items()}
    torch.save(result | {"first": first, "losses": losses}, folder / f"{name}-{ranks}-{rank}.pt")


def page(folder: Path) -> None:
    """The script in docs/distributed.md, in the process group that is there: a process cannot join a second one."""
    text = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(re.search(r"```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1], namespace)
    os.chdir(folder)
    with (
        mock.patch.object(dist, "init_process_group") as begin,
        mock.patch.object(dist, "destroy_process_group") as end,
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        namespace["main"]()
    begin.assert_called_once_with("gloo", timeout=timedelta(minutes=5))
    end.assert_called_once_with()
    (folder / f"page-{dist.get_rank()}.txt").write_text(out.getvalue())


def main() -> None:
    torch.set_num_threads(1)
    folder, *tasks = sys.argv[1:]
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for task in tasks:
        kind, *rest = task.split(":")
        if kind == "train":
            train(Path(folder), rest[0], int(rest[1]) if rest[1:] else STEPS)
        else:
            {"compare": compare, "disagree": disagree, "page": page, "views": views}[kind](Path(folder))
    gc.collect()  # DistributedDataParallel keeps the group, whose threads must not outlive the interpreter
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
