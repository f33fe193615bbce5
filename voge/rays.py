"""Rays: where a line of sight begins and where it goes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from voge import checks


class Rays(NamedTuple):
    """Rays x(t) = origin + t direction / |direction|, in world units.

    Attributes:
        origins: (..., 3), broadcast against `directions`: one origin for all, or one a ray.
        directions: (..., 3), of any length but zero.
        valid: (...) bool, broadcast against the rays, or None. Rays that are not valid (pixels outside the domain of a
            camera model, say) show the background.
    """

    origins: Tensor
    directions: Tensor
    valid: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape of the set of rays, without the last 3."""
        return torch.broadcast_shapes(self.origins.shape, self.directions.shape)[:-1]

    def check(self) -> Rays:
        """Returns self if types, shapes and values are right: finite, no direction of length zero.

        Raises:
            TypeError, ValueError: naming what is wrong.
        """
        check_shapes(self)
        checks.every("rays.origins", self.origins.isfinite(), "finite values", self.origins)
        checks.every("rays.directions", self.directions.isfinite(), "finite values", self.directions)
        checks.every("rays.directions", (self.directions != 0).any(-1), "directions of a length above zero")
        return self


def check_shapes(rays: Rays) -> None:
    """TypeError or ValueError unless types, dtypes, devices and shapes fit together; values are not read."""
    directions = checks.tensor("rays.directions", rays.directions, (3,), dtype=checks.REAL)
    dtype, device = directions.dtype, directions.device
    origins = checks.tensor("rays.origins", rays.origins, (3,), dtype=dtype, device=device)
    shapes = {"rays.origins": origins.shape[:-1], "rays.directions": directions.shape[:-1]}
    if rays.valid is not None:
        if not isinstance(rays.valid, Tensor) or rays.valid.dtype != torch.bool:
            got = rays.valid.dtype if isinstance(rays.valid, Tensor) else type(rays.valid).__name__
            raise TypeError(f"rays.valid: expected a torch.bool tensor or None, got {got}")
        if rays.valid.device != device:
            raise ValueError(f"rays.valid: expected a tensor on {device}, got one on {rays.valid.device}")
        shapes["rays.valid"] = rays.valid.shape
    checks.broadcast_batch(**shapes)
