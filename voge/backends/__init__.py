"""Backends: `cpu` and `cuda` (native kernels), `reference` (plain torch, any device); chosen by the tensors' device."""

from __future__ import annotations

import torch

BACKENDS = ("cpu", "cuda", "reference")


def transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is at work, which our operators would break."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def eager() -> bool:
    """Whether tensors hold their data: no compiler traces them, no transform wraps them."""
    return not torch.compiler.is_compiling() and not transformed()


def choose(backend: str | None, device: torch.device) -> str:
    """Name of the backend for tensors on `device`; ValueError when it is unknown or does not fit the device."""
    if backend is None:
        if device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"the Gaussians are on {device}, for which there is no native backend: move them to the CPU or to a "
                'CUDA device, or pass backend="reference" (plain torch: slow, any device)'
            )
        return device.type
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(map(repr, BACKENDS))} or None, got {backend!r}")
    if backend == "cpu" and device.type != "cpu":
        raise ValueError(f'backend="cpu" needs tensors on the CPU, got {device}')
    if backend == "cuda" and device.type != "cuda":
        from voge.backends import cuda_launch

        if not cuda_launch.replaced():
            raise ValueError(f'backend="cuda" needs tensors on a CUDA device, got {device}')
    return backend
