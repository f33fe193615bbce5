"""Rays through the pixel grid of pinhole cameras, and the checks of their values: native operators and plain torch.

Annotations stay objects here: the schemas are read from them.
"""

from typing import Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from voge import _cpu
from voge.backends import eager, transformed


def are_cameras(R: Tensor, t: Tensor, K: Tensor) -> bool:
    """Whether tensors on the CPU are finite rotations, translations and calibrations (K's last row, focal lengths)."""
    return _cpu.are_cameras(_rows(R, 3, 3), _rows(t, 3), _rows(K, 3, 3))


def rays(R: Tensor, t: Tensor, K: Tensor, height: int, width: int) -> Tuple[Tensor, Tensor]:
    """Origins (..., 3) and directions (..., height, width, 3), R' K^-1 (u, v, 1); batches of R, t and K broadcast."""
    if R.device.type != "cpu" or transformed():
        return plain_camera_rays(R, t, K, height, width)
    if _wanted(R, t, K) or not eager():
        return camera_rays(R, t, K, height, width)
    return _native(R, t, K, height, width)  # a call of the operator costs 40 us more


def grid(R: Tensor, t: Tensor, K: Tensor, height: int, width: int) -> Tuple[Tensor, Tensor, Tensor]:
    """The rays, and the projections: one native call where nobody asks for gradients."""
    if R.device.type != "cpu" or not eager() or _wanted(R, t, K):
        return *rays(R, t, K, height, width), projections(R, t, K)
    batch = _batch(R, t, K)
    matrices = R.new_empty(batch.numel(), 3, 4, dtype=torch.float64)
    return *_native(R, t, K, height, width, matrices), matrices


def _wanted(R: Tensor, t: Tensor, K: Tensor) -> bool:
    return torch.is_grad_enabled() and (R.requires_grad or t.requires_grad or K.requires_grad)


def projections(R: Tensor, t: Tensor, K: Tensor) -> Tensor:
    """K [R | t] of every camera of the batch, (B, 3, 4), in float64 and without gradients."""
    batch = _batch(R, t, K)
    if R.device.type != "cpu" or not eager():
        R, t, K = (x.detach().double() for x in (R, t, K))
        matrices = K @ torch.cat([R.expand(*batch, 3, 3), t.expand(*batch, 3)[..., None]], -1)
        return matrices.expand(*batch, 3, 4).reshape(-1, 3, 4)
    pose = np.empty((*batch, 3, 4))  # NumPy is several times faster with so few numbers
    pose[..., :3], pose[..., 3] = R.detach().numpy(), t.detach().numpy()
    return torch.from_numpy((K.detach().numpy() @ pose).reshape(-1, 3, 4))


def plain_camera_rays(R: Tensor, t: Tensor, K: Tensor, height: int, width: int) -> Tuple[Tensor, Tensor]:
    """The definition, on any device."""
    batch = _batch(R, t, K)
    # inv_ex does not wait for the GPU to report singular matrices: the constructor of Cameras has excluded them.
    x_axis, y_axis, z_axis = (R.mT @ torch.linalg.inv_ex(K).inverse)[..., None, :, :].unbind(-1)
    u, v = (torch.arange(n, dtype=R.dtype, device=R.device) + 0.5 for n in (width, height))
    columns, rows = u[:, None] * x_axis, v[:, None] * y_axis + z_axis
    directions = (columns[..., None, :, :] + rows[..., :, None, :]).expand(*batch, height, width, 3)
    return -(R.mT @ t[..., None])[..., 0].expand(*batch, 3), directions


def _native(
    R: Tensor, t: Tensor, K: Tensor, height: int, width: int, matrices: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    batch = _batch(R, t, K)
    origins, directions = R.new_empty(*batch, 3), R.new_empty(*batch, height, width, 3)
    out = origins.view(-1, 3).numpy(), directions.view(-1, height, width, 3).numpy()
    projections = None if matrices is None else matrices.numpy()
    _cpu.camera_rays(*_flat(batch, R, t, K), *out, projections, torch.get_num_threads())
    return origins, directions


@torch.library.custom_op("voge::camera_rays", mutates_args=(), device_types="cpu")
def camera_rays(R: Tensor, t: Tensor, K: Tensor, height: int, width: int) -> Tuple[Tensor, Tensor]:
    return _native(R, t, K, height, width)


@camera_rays.register_fake
def _(R, t, K, height, width):
    batch = _batch(R, t, K)
    return R.new_empty(*batch, 3), R.new_empty(*batch, height, width, 3)


@torch.library.custom_op("voge::camera_rays_backward", mutates_args=(), device_types="cpu")
def camera_rays_backward(
    grad_origins: Tensor, grad_directions: Tensor, R: Tensor, t: Tensor, K: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    batch, (height, width) = grad_origins.shape[:-1], grad_directions.shape[-3:-1]
    flat = _flat(batch, R, t, K)
    grads = [R.new_empty(batch.numel(), *size) for size in ((3, 3), (3,), (3, 3))]
    _cpu.camera_rays_backward(
        *flat,
        grad_origins.contiguous().view(-1, 3).numpy(),
        grad_directions.contiguous().view(-1, height, width, 3).numpy(),
        *(grad.numpy() for grad in grads),
        torch.get_num_threads(),
    )
    g_R, g_t, g_K = (sum_to(grad.view(*batch, *grad.shape[1:]), x) for grad, x in zip(grads, (R, t, K), strict=True))
    return g_R, g_t, g_K


@camera_rays_backward.register_fake
def _(grad_origins, grad_directions, R, t, K):
    return R.new_empty(R.shape), t.new_empty(t.shape), K.new_empty(K.shape)


def _once(ctx, *grads):
    raise RuntimeError("voge::camera_rays_backward has no derivative")


camera_rays_backward.register_autograd(_once)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.size = inputs[3:]


def _backward(ctx, grad_origins, grad_directions):
    R, t, K = ctx.saved_tensors
    if torch.is_grad_enabled():  # second derivatives may follow: plain torch has them
        plain = plain_camera_rays(R, t, K, *ctx.size)
        wanted = [x for x, need in zip((R, t, K), ctx.needs_input_grad, strict=False) if need]
        grads = iter(torch.autograd.grad(plain, wanted, (grad_origins, grad_directions), create_graph=True))
        return *(next(grads) if need else None for need in ctx.needs_input_grad[:3]), None, None
    return *camera_rays_backward(grad_origins, grad_directions, R, t, K), None, None


camera_rays.register_autograd(_backward, setup_context=_setup)


def _batch(R: Tensor, t: Tensor, K: Tensor) -> torch.Size:
    batch = R.shape[:-2]
    same = batch == t.shape[:-1] == K.shape[:-2]  # broadcast_shapes takes longer than all else here
    return batch if same else torch.broadcast_shapes(batch, t.shape[:-1], K.shape[:-2])


def _flat(batch: torch.Size, R: Tensor, t: Tensor, K: Tensor) -> Tuple[np.ndarray, ...]:
    """R, t and K with one flat batch dimension each, of the whole batch or 1."""
    sizes = ((3, 3), (3,), (3, 3))
    if not batch:
        return tuple(_rows(x, *n) for x, n in zip((R, t, K), sizes, strict=True))
    whole = (
        x if x.shape[: -len(n)] in (batch, ()) else x.expand(*batch, *n) for x, n in zip((R, t, K), sizes, strict=True)
    )
    return tuple(_rows(x, *n) for x, n in zip(whole, sizes, strict=True))


def sum_to(grad: Tensor, x: Tensor) -> Tensor:
    """Sum of `grad` over all that share x by broadcasting; NumPy's order does not depend on the number of threads."""
    if grad.shape == x.shape:
        return grad
    new = grad.dim() - x.dim()
    shared = (i for i, size in enumerate(x.shape, new) if size == 1 < grad.shape[i])
    return torch.from_numpy(grad.numpy().sum((*range(new), *shared), keepdims=True)).view(x.shape)


def _rows(x: Tensor, *size: int) -> np.ndarray:
    return x.detach().contiguous().numpy().reshape(-1, *size)
