"""Rendering by several processes: a shard of the Gaussians and a part of the picture each."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from voge import checks
from voge.backends.cameras import projections
from voge.cameras import Cameras
from voge.compat import as_cameras
from voge.distributed.exchange import Exchange, exchange_counts
from voge.distributed.plan import along, plan
from voge.distributed.ranks import agree, checksum, place, share, together
from voge.gaussians import Gaussians
from voge.rays import Rays, check_shapes
from voge.render import Rendering
from voge.render import render as render_here

SPLITS = ("rows", "views")


class Part(NamedTuple):
    """What a rank has rendered.

    Attributes:
        rendering: of [start, stop) of the whole picture's dimension `dim`; it may be empty.
        dim: the dimension of the whole picture (..., H, W, C) that the ranks share, counted from the front.
        edges: (ranks + 1) ints: rank r has [edges[r], edges[r + 1]).
        sent, received: how many Gaussians went from this rank to each rank, and came from each rank to this one.
        group: the process group.
    """

    rendering: Rendering
    dim: int
    edges: tuple[int, ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]
    group: Any

    @property
    def start(self) -> int:
        return self.edges[dist.get_rank(self.group)]

    @property
    def stop(self) -> int:
        return self.edges[dist.get_rank(self.group) + 1]

    def cut(self, picture: Tensor) -> Tensor:
        """This rank's part of a whole picture (..., H, W) or (..., H, W, C), such as the photograph to compare with."""
        if picture.dim() <= self.dim or picture.shape[self.dim] != self.edges[-1]:
            raise ValueError(
                f"picture: expected {self.edges[-1]} along dimension {self.dim}, got {tuple(picture.shape)}"
            )
        return picture.narrow(self.dim, self.start, self.stop - self.start)

    def gather(self, part: Tensor) -> Tensor:
        """The whole picture on every rank, without gradients. All ranks call it with their part, e.g. of the alpha."""
        pieces = []
        for rank in range(len(self.edges) - 1):
            mine = rank == dist.get_rank(self.group)
            shape = list(part.shape)
            shape[self.dim] = self.edges[rank + 1] - self.edges[rank]
            piece = part.detach().contiguous() if mine else part.new_empty(shape)
            if piece.numel():
                with together(self.group, "gathering a picture"):
                    source = rank if self.group is None else dist.get_global_rank(self.group, rank)
                    dist.broadcast(piece, source, self.group)
            pieces.append(piece)
        return torch.cat(pieces, self.dim)


def render(
    gaussians: Gaussians,
    cameras_or_rays: Cameras | Rays | Any,
    features: Tensor,
    *,
    split: str = "rows",
    threshold: float = 0.01,
    absorptivity: float | Tensor = 1.0,
    background: Tensor | None = None,
    group: Any = None,
    **settings: Any,
) -> Part:
    """voge.render of the scene whose Gaussians are spread over the ranks; every rank gets its part of the picture.

    All ranks call it together, with the same arguments but for their own Gaussians and features, and all call backward
    on a loss of their part (also of an empty one). The gradient is that of the sum of these losses: on each rank of its
    own Gaussians; and of what all have (cameras or rays, absorptivity, background) the whole gradient on each.

    Args:
        gaussians: this rank's shard (N, ...) without batch dimensions; N may be 0 and differ between ranks.
        cameras_or_rays: as in voge.render, the same on all ranks. Of Rays each rank takes an even share of the first
            dimension.
        features: (N, C) of the shard.
        split: "rows": each rank renders a band of every picture; "views": whole pictures of a batch of cameras. The
            parts are made so that each has about as many pairs of Gaussians and tiles.
        group: the process group; None: all ranks.
        settings: the other arguments of voge.render.

    Raises:
        TypeError, ValueError: as voge.render; arguments that differ between the ranks and must not.
        RuntimeError: torch.distributed is not initialised; another rank has ended or does not answer.
    """
    rank, ranks = place(group)
    _check_shard(gaussians, features, threshold)
    view = _check_view(cameras_or_rays, split)
    if isinstance(view, Rays):
        shape, dim = view.shape, 0
    else:
        shape = torch.Size([*view.batch_shape, *view.image_size])
        dim = len(shape) - 2 if split == "rows" else 0
    if background is not None:
        _check_background(background, features, shape, dim)
    names = Rays._fields if isinstance(view, Rays) else ("R", "t", "K")
    seen = {name: getattr(view, name) for name in names} | {"background": background, "absorptivity": absorptivity}
    whole = {name: x for name, x in seen.items() if isinstance(x, Tensor)}  # what all ranks have
    moving = [name for name, x in whole.items() if x.requires_grad]
    agree(
        group,
        gaussians.device,
        gaussians=(gaussians.dtype, "without density" if gaussians.density is None else "with density"),
        features=f"{features.shape[1]} channels",
        requires_grad=(moving, torch.is_grad_enabled()),
        cameras_or_rays=(names, shape, [checksum(whole[name]) for name in names if name in whole]),
        background=checksum(background) if background is not None else None,
        absorptivity=checksum(absorptivity) if isinstance(absorptivity, Tensor) else absorptivity,
        settings=(split, threshold, sorted(settings.items())),
    )

    if isinstance(view, Rays):
        edges = [share(shape[0], r, ranks)[0] for r in range(ranks)] + [shape[0]]
        targets = along(gaussians, view, edges, threshold)
    else:
        edges, targets = plan(gaussians, view, threshold, split, group)
    columns = [gaussians.means, gaussians.precisions.flatten(-2), features]
    if gaussians.density is not None:
        columns.append(gaussians.density[:, None])
    counts = exchange_counts(targets, group)
    # Gradients flow on all ranks if on one: backward on one would wait for a rank that has none to compute.
    anchor = features.new_zeros((), requires_grad=torch.is_grad_enabled())
    rows, *moved = Exchange.apply(
        group, targets, counts, torch.cat(columns, 1), anchor, *(whole[name] for name in moving)
    )
    whole |= zip(moving, moved, strict=True)

    empty = edges[rank] == edges[rank + 1]
    # An empty part: renders the first row, view or ray, and keeps nothing of it.
    here = (0, 1) if empty else (edges[rank], edges[rank + 1])
    if isinstance(view, Rays):
        mine: Cameras | Rays = Rays(**{x: _narrow(whole[x], shape, dim, here) for x in names if x in whole})
    else:
        cameras = Cameras(whole["R"], whole["t"], whole["K"], view.image_size)
        mine = _Rows(cameras, *here) if split == "rows" else cameras[slice(*here)]
    means, precisions, features, *density = rows.split([3, 9, *(x.shape[1] for x in columns[2:])], 1)
    rendering = render_here(
        Gaussians(means, precisions.unflatten(1, (3, 3)), density[0][:, 0] if density else None),
        mine,
        features,
        threshold=threshold,
        absorptivity=whole.get("absorptivity", absorptivity),
        background=_narrow(whole["background"], shape, dim, here) if background is not None else None,
        **settings,
    )
    if empty:
        rendering = Rendering._make(None if x is None else x.narrow(dim, 0, 0) for x in rendering)
    return Part(rendering, dim, tuple(edges), tuple(map(len, targets)), tuple(counts), group)


class _Rows(Cameras):
    """The rows [first, last) of cameras. Its rays are the whole picture's bit for bit; those of `crop` are rounded."""

    def __init__(self, whole: Cameras, first: int, last: int) -> None:
        part = whole.crop((0, first, whole.image_size[1], last))
        super().__init__(part.R, part.t, part.K, part.image_size)
        self._whole, self._first, self._last = whole, first, last

    def _grid(self) -> tuple[Tensor, Tensor, Tensor]:
        origins, directions, _ = self._whole._grid()
        return origins, directions[..., self._first : self._last, :, :], projections(self.R, self.t, self.K)


def _check_shard(gaussians: Gaussians, features: Tensor, threshold: float) -> None:
    if not isinstance(gaussians, Gaussians) or gaussians.batch_shape:
        raise ValueError(f"gaussians: expected a shard of one scene (N, 3) without batch dimensions, got {gaussians!r}")
    checks.tensor("features", features, (gaussians.num, "C"), dtype=gaussians.dtype, device=gaussians.device)
    if features.dim() != 2:
        raise ValueError(f"features: expected shape (N, C), got {tuple(features.shape)}")
    if not isinstance(threshold, (int, float)) or not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a number in [0, 1), got {threshold!r}")
    # Here, where the index is that of the shard: the kernels will see Gaussians of several.
    checks.every("features", features.isfinite(), "finite values", features)
    gaussians.check()


def _check_background(background: Tensor, features: Tensor, shape: torch.Size, dim: int) -> None:
    channels = features.shape[1]
    checks.tensor("background", background, (channels,), dtype=features.dtype, device=features.device)
    tail = dim - len(shape) - 1
    if background.dim() >= -tail and background.shape[tail] not in (1, shape[dim]):
        raise ValueError(f"background: expected shape (C,) or {(*shape, channels)}, got {tuple(background.shape)}")


def _check_view(cameras_or_rays: Cameras | Rays | Any, split: str) -> Cameras | Rays:
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    if isinstance(cameras_or_rays, Rays):
        check_shapes(cameras_or_rays)
        if not cameras_or_rays.shape or not cameras_or_rays.shape.numel():
            raise ValueError(f"rays: expected a dimension to split, got shape {tuple(cameras_or_rays.shape)}")
        return cameras_or_rays
    cameras = as_cameras(cameras_or_rays)
    if split == "views" and not cameras.batch_shape:
        raise ValueError('cameras: expected a batch for split="views", got a single camera')
    return cameras


def _narrow(x: Tensor, shape: torch.Size, dim: int, here: tuple[int, int]) -> Tensor:
    """The part `here` along dimension `dim` of rays of this shape, where x does not broadcast along it."""
    dim = dim - len(shape) - (x.dtype != torch.bool)  # from the back; all but `valid` have channels
    return x if x.dim() < -dim or x.shape[dim] == 1 else x.narrow(dim, here[0], here[1] - here[0])
