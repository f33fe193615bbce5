"""Launches of single CUDA kernels by the emulator, and small scenes for them."""

from __future__ import annotations

import torch

DTYPES = [torch.float32, torch.float64]
THRESHOLD = 0.01
MODES = [
    (torch.float32, "in_order", 0),
    (torch.float64, "in_order", 0),
    (torch.float32, "shuffled", 3),
    (torch.float32, "race", 0),
]


def suffix(dtype):
    return "f32" if dtype == torch.float32 else "f64"


def launch(launcher, name, units, threads, *arguments):
    dtype = next(x.dtype for x in arguments if isinstance(x, torch.Tensor) and x.dtype in DTYPES)
    grid = max(1, min(3, -(-units // threads)))  # fewer threads than units: they stride
    launcher.launch(f"{name}_{suffix(dtype)}", grid, threads, arguments)


def some_gaussians(num, seed, dtype, batch=1, sigma=0.15):
    g = torch.Generator().manual_seed(seed)
    turns, _ = torch.linalg.qr(torch.randn(batch, num, 3, 3, generator=g, dtype=torch.float64))
    sigmas = sigma * torch.exp(torch.randn(batch, num, 3, generator=g, dtype=torch.float64))
    p = (turns / sigmas[..., None, :] ** 2) @ turns.mT
    means = torch.randn(batch, num, 3, generator=g, dtype=torch.float64)
    density = torch.rand(batch, num, generator=g, dtype=torch.float64) + 0.1
    return [x.to(dtype).contiguous() for x in (means, (p + p.mT) / 2, density)]


def make_records(launcher, means, precisions, density):
    records, flag = means.new_empty(*density.shape, 12), torch.zeros(1, dtype=torch.int32)
    launch(launcher, "records", density.numel(), 128, means, precisions, density, density.numel(), records, flag)
    return records, int(flag)


def exponents(means, precisions, origins, directions):
    """Exponent and length of (Gaussian, ray), in double."""
    means, p, o, d = (x.double() for x in (means, precisions, origins, directions))
    d = d / d.norm(dim=-1, keepdim=True)
    v = means[:, None] - o
    pd = torch.einsum("nij,rj->nri", p, d)
    s = (pd * d).sum(-1)
    length = (pd * v).sum(-1) / s
    u = v - length[..., None] * d
    return -0.5 * torch.einsum("nri,nij,nrj->nr", u, p, u), length
