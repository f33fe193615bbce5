"""Renderer, Meshes and Sampler of the official package."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import voge
from voge import checks
from voge.cameras import Cameras
from voge.compat.official.tracing import FAR, expend_sigma, flat_indices, merge_final, official_weights
from voge.compat.pytorch3d import cameras_from
from voge.gaussians import Gaussians


class GaussianMeshesNaive:
    """Gaussians by reference: verts (N, 3), sigmas (N,), (N, 3) or (N, 3, 3); radians are kept and not used."""

    def __init__(self, verts: Tensor, sigmas: Tensor, radians: Tensor | None = None) -> None:
        self.verts, self.sigmas, self.radians = verts, sigmas, radians

    def to(self, device: Any) -> GaussianMeshesNaive:
        """Moves them, and returns self."""
        self.verts, self.sigmas = self.verts.to(device), self.sigmas.to(device)
        self.radians = None if self.radians is None else self.radians.to(device)
        return self

    def __call__(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.verts, self.sigmas, self.radians

    def __getitem__(self, item: Any) -> GaussianMeshesNaive:
        return GaussianMeshesNaive(
            self.verts[item], self.sigmas[item], None if self.radians is None else self.radians[item]
        )


class GaussianMeshes(nn.Module):
    """Gaussians as parameters, copies of verts, sigmas and radians; gradianted_args says which of the three are
    trained."""

    def __init__(
        self,
        verts: Tensor,
        sigmas: Tensor,
        radians: Tensor | None = None,
        gradianted_args: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        trained = [True] * 3 if gradianted_args is None else list(gradianted_args)
        self.gradianted_args = [*trained[:2], trained[2] and radians is not None]
        self.verts = nn.Parameter(verts.detach().clone(), requires_grad=trained[0])
        self.sigmas = nn.Parameter(sigmas.detach().clone(), requires_grad=trained[1])
        self.radians = None if radians is None else nn.Parameter(radians.detach().clone(), requires_grad=trained[2])

    def grad_parameters(self) -> tuple[Tensor, ...]:
        """Those that are trained."""
        return tuple(
            value for value, trained in zip(self(), self.gradianted_args, strict=True) if trained and value is not None
        )

    def forward(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.verts, self.sigmas, self.radians


DeformedGaussianMeshes = GaussianMeshes


class Fragments:
    """The hits of every pixel.

    Attributes:
        vert_weight: (B, H, W, K).
        vert_index: (B, H, W, K) int32, of the flattened (B N) set, -1: none.
        valid_num: (B, H, W) int64, how many there are.
        vert_hit_length: (B, H, W, K), 1e10: none.
        num_vertices: N, or None where it is not known.
    """

    def __init__(
        self,
        vert_weight: Tensor,
        vert_index: Tensor,
        valid_num: Tensor,
        vert_hit_length: Tensor,
        num_vertices: int | None = None,
    ) -> None:
        self.vert_weight, self.vert_index = vert_weight, vert_index
        self.valid_num, self.vert_hit_length = valid_num, vert_hit_length
        self.num_vertices = num_vertices

    def __getitem__(self, item: Any) -> Fragments:
        if self.valid_num.dim() != 3:
            raise ValueError("fragments: expected a batch, to take items of")
        return self._with(lambda value: value[item])

    def __len__(self) -> int:
        return len(self.valid_num)

    @property
    def shape(self) -> tuple[torch.Size, ...]:
        return self.vert_weight.shape, self.vert_index.shape, self.valid_num.shape, self.vert_hit_length.shape

    def squeeze(self) -> Fragments:
        """Without the batch dimension, which must be 1."""
        if len(self) != 1:
            raise ValueError(f"fragments: expected a batch of 1, got {len(self)}")
        return self[0]

    def unsqueeze(self) -> Fragments:
        """With a batch dimension of 1."""
        if self.valid_num.dim() != 2:
            raise ValueError("fragments: expected no batch")
        return self._with(lambda value: value[None])

    def _with(self, change: Callable[[Tensor], Tensor]) -> Fragments:
        changed = {name: change(value) for name, value in self.to_dict().items()}
        return Fragments(**changed, num_vertices=self.num_vertices)

    def to_dict(self) -> dict[str, Tensor]:
        names = ("vert_weight", "vert_index", "valid_num", "vert_hit_length")
        return {name: getattr(self, name) for name in names}

    def copy(self) -> Fragments:
        """With tensors of its own."""
        return self._with(lambda value: value.clone())


class GaussianRenderSettings:
    """Settings of a renderer.

    Args:
        image_size: (H, W), or a number for both.
        max_assign: most hits of a pixel, the nearest.
        thr_activation: in [0, 1), least density at the peak of a hit.
        absorptivity: above 0.
        inverse_sigma: whether sigmas are covariances (times 4) rather than precisions (over 4).
        principal: (y, x), which must be the cameras' own; None: not checked.
        max_point_per_bin: without effect, nothing overflows.

    Warns:
        UserWarning: other settings, which the official package ignores.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 256,
        max_assign: int = 20,
        thr_activation: float = 0.01,
        absorptivity: float = 1,
        inverse_sigma: bool = False,
        principal: Sequence[float] | None = None,
        max_point_per_bin: int | None = None,
        **ignored: Any,
    ) -> None:
        if ignored:
            warnings.warn(f"settings without effect: {', '.join(ignored)}", stacklevel=2)
        self.image_size = checks.image_size(
            "image_size", (image_size, image_size) if isinstance(image_size, int) else image_size
        )
        self.max_assign = max_assign
        self.thr_activation = thr_activation
        self.absorptivity = absorptivity
        self.inverse_sigma = inverse_sigma
        self.principal = principal
        self.max_point_per_bin = max_point_per_bin

    def __getitem__(self, item: str) -> Any:
        return getattr(self, item)


class GaussianRenderer(nn.Module):
    """Renders Gaussians to Fragments.

    Args:
        cameras: PyTorch3D PerspectiveCameras in pixels (in_ndc=False), or voge.Cameras.
        render_settings: GaussianRenderSettings, or a dict of its arguments.
    """

    def __init__(self, cameras: Any, render_settings: GaussianRenderSettings | dict) -> None:
        super().__init__()
        self.cameras = cameras
        self.render_settings = (
            GaussianRenderSettings(**render_settings) if isinstance(render_settings, dict) else render_settings
        )

    @property
    def device(self) -> torch.device:
        return torch.device(self.cameras.device)

    def to(self, device: Any) -> GaussianRenderer:  # type: ignore[override]
        """Moves the cameras, and returns self."""
        self.cameras = self.cameras.to(device)
        return self

    def forward(
        self, gmeshes: Any, R: Any = None, T: Any = None, focal: Any = None, principal: Any = None
    ) -> Fragments:
        """Fragments (B, H, W, max_assign) of gmeshes(): (verts, sigmas, radians).

        Args:
            R, T, focal, principal: in PyTorch3D's conventions, instead of the cameras' own for this call: (B, 3, 3),
                (B, 3), a number or (B, 1 or 2), (B, 2).

        Raises:
            TypeError, ValueError: cameras in NDC, settings that contradict the cameras, values as in voge.trace.
        """
        settings = self.render_settings
        verts, sigmas, _ = gmeshes()
        cameras = self._cameras(R=R, T=T, focal_length=focal, principal_point=principal).to(verts.dtype)
        sigmas = expend_sigma(sigmas)
        gaussians = (
            Gaussians.from_covariances(verts, sigmas / 4) if settings.inverse_sigma else Gaussians(verts, 4 * sigmas)
        )
        hits = voge.trace(
            gaussians,
            cameras,
            max_hits=settings.max_assign,
            threshold=settings.thr_activation,
            absorptivity=settings.absorptivity,
        )
        hit = hits.indices >= 0
        return Fragments(
            official_weights(hits.weights, settings.absorptivity),
            flat_indices(hits.indices, gaussians.num),
            hit.sum(-1),
            torch.where(hit, hits.lengths, FAR),
            gaussians.num,
        )

    def _cameras(self, **own: Any) -> Cameras:
        """A batch of cameras with these properties instead of the held ones."""
        cameras = self.cameras
        own = {name: value for name, value in own.items() if value is not None}
        if isinstance(cameras, Cameras):
            if own:
                raise TypeError(f"{', '.join(own)}: go with PyTorch3D cameras; make voge.Cameras anew")
            result = cameras
        else:
            if cameras.in_ndc():
                raise ValueError("cameras: expected in_ndc=False, with focal length and principal point in pixels")
            if own:
                cameras = copy.copy(cameras)
                for name, value in own.items():
                    value = torch.as_tensor(value, dtype=self.cameras.R.dtype, device=self.cameras.R.device)
                    if name == "focal_length":
                        value = value.reshape(-1, 1) if value.dim() < 2 else value
                    vars(cameras)[name] = value if value.dim() > 1 + (name == "R") else value[None]
            result = cameras_from(cameras, self.render_settings.image_size)
        if result.image_size != self.render_settings.image_size:
            raise ValueError(
                f"image_size: the cameras have {result.image_size}, the settings {self.render_settings.image_size}"
            )
        principal = self.render_settings.principal
        if principal is not None:
            center = result.K[..., [1, 0], 2]
            same = (center - torch.as_tensor(principal).to(center)).abs() <= 1e-3
            checks.every("principal", same, f"the (y, x) of the settings, {tuple(principal)},", center)
        return result if len(result.batch_shape) else result[None]


def interpolate_attr(fragments: Fragments, vert_attr: Tensor) -> Tensor:
    """(B, H, W, C): attributes (N, C) of the Gaussians, or (B N, C) of the flattened batch, weighted and summed."""
    index = fragments.vert_index
    if len(vert_attr) == fragments.num_vertices:
        index = torch.where(index < 0, -1, index % fragments.num_vertices)
    return merge_final(vert_attr, fragments.vert_weight, index)


def get_silhouette(fragments: Fragments) -> Tensor:
    """(B, H, W): the sum of the weights, at most 1."""
    return fragments.vert_weight.sum(-1).clamp(max=1)


def to_colored_background(
    fragments: Fragments, colors: Tensor, background_color: Tensor | Sequence[float] = (1, 1, 1), thr: float = -1
) -> Tensor:
    """(B, H, W, C): colours (N, C) over a background, at most 1.

    Args:
        background_color: (C,), or an image that broadcasts.
        thr: above 0, the background shows only where the silhouette is not above it, and there in full.
    """
    mask = get_silhouette(fragments)[..., None]
    if thr > 0:
        mask = (mask > thr).to(mask)
    background = torch.as_tensor(background_color).to(colors)
    return (interpolate_attr(fragments, colors) + (1 - mask) * background).clamp(max=1)


def to_white_background(fragments: Fragments, colors: Tensor, thr: float = -1) -> Tensor:
    """`to_colored_background` in white."""
    return to_colored_background(fragments, colors, (1, 1, 1), thr)


def sample_features(frag: Fragments, image: Tensor, n_vert: int | None = None) -> tuple[Tensor, Tensor]:
    """Sums over pixels of weight times image, (n_vert, C), and of weights, (n_vert,): the transpose of
    `interpolate_attr`.

    Args:
        image: (B, H, W, C).
        n_vert: rows to return; None: B N, of the flattened batch. N: sums over the batch as well.
    """
    if image.shape[:-1] != frag.valid_num.shape:
        raise ValueError(f"image: expected shape {(*frag.valid_num.shape, 'C')}, got {tuple(image.shape)}")
    rows, index, weight = _rows(frag, n_vert)
    values = (weight[..., None] * image[..., None, :]).reshape(-1, image.shape[-1])
    feature = values.new_zeros(rows, image.shape[-1]).index_add(0, index, values)
    return feature, weight.new_zeros(rows).index_add(0, index, weight.reshape(-1))


def scatter_max_weight(frag: Fragments, n_vert: int | None = None) -> Tensor:
    """(n_vert,): the largest weight of each Gaussian, 0 where it is not seen; no gradient."""
    rows, index, weight = _rows(frag, n_vert)
    return weight.new_zeros(rows).scatter_reduce(0, index, weight.detach().reshape(-1), "amax")


def _rows(frag: Fragments, n_vert: int | None) -> tuple[int, Tensor, Tensor]:
    """How many rows, the row of every slot (flat), and its weight, 0 for empty slots."""
    hit = frag.vert_index >= 0
    index = torch.where(hit, frag.vert_index, 0).long()
    if n_vert is None:
        batch = len(frag) if frag.valid_num.dim() == 3 else 1
        n_vert = int(index.max()) + 1 if frag.num_vertices is None else batch * frag.num_vertices
    if n_vert == frag.num_vertices:
        index = index % n_vert
    if int(index.max()) >= n_vert:
        raise ValueError(f"n_vert: expected at least {int(index.max()) + 1}, got {n_vert}")
    return n_vert, index.reshape(-1), torch.where(hit, frag.vert_weight, 0)
