"""What the torch operators of all native backends share: schemas, shapes of the results, derivatives.

A backend brings the bodies. Slots of hits are dense, (B, rays, K) with no `offsets` (an empty tensor), or ragged, (M,)
with offsets (B * rays + 1,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Body = Callable[..., Any]

GAUSSIANS = "Tensor means, Tensor precisions, Tensor density"  # (G, N, ...); every batch size is 1 or B
RAYS = "Tensor origins, Tensor directions"  # (R, 1 or rays, 3) and (R, rays, 3)
PICTURE = "Tensor? valid, Tensor? projection, SymInt height, SymInt width"
HITS = "SymInt max_hits, float threshold, float near, bool world"  # max_hits 0: all
RULE = "bool segments, SymInt points, bool median, bool with_normals"
SCENE = f"{GAUSSIANS}, Tensor features, {RAYS}, {PICTURE}, {HITS}, {RULE}"


def tensors(count: int) -> str:
    return f"({', '.join(['Tensor'] * count)})"


def define(name: str, schema: str, body: Body, fake: Body, devices: str | None) -> Any:
    """The operator voge::name; its body runs on `devices` (None: any)."""
    operator = torch.library.custom_op(f"voge::{name}", body, mutates_args=(), device_types=devices, schema=schema)
    operator.register_fake(fake)
    return operator


def refuse(what: str, backend: str) -> Body:
    """The derivative of a backward pass."""

    def once(ctx, *grads):
        raise RuntimeError(
            f'{what} has no second derivatives on backend "{backend}"; backend="reference" (plain torch) has them'
        )

    return once


def new(x: Tensor, like: Tensor) -> Tensor:
    """A contiguous empty tensor of the shape of `like` and the type of `x`."""
    return x.new_empty(like.shape)


def slot_rays(slots: Tensor, offsets: Tensor) -> int:
    """Rays of all scenes."""
    return offsets.shape[0] - 1 if offsets.shape[0] else slots.shape[0] * slots.shape[1]


# ---- the fused route


def render(prefix: str, forward: Body, backward: Body, backend: str, devices: str | None, hint: str = "") -> Any:
    """Features (B, rays, C), alpha (B, rays), depth (B, rays), normals (B, rays, 3) or (0, rays, 3) of every ray.

    With a `hint` the settings end with it, and there is one more result: the overflow, of no dimension.
    """

    def fake(means, precisions, density, features, origins, directions, valid, projection, *settings):
        batch, rays = max(means.shape[0], directions.shape[0], features.shape[0]), directions.shape[1]
        with_normals = settings[9]
        image, alpha, depth = (means.new_empty(batch, rays, *tail) for tail in ((features.shape[2],), (), ()))
        results = image, alpha, depth, means.new_empty(batch if with_normals else 0, rays, 3)
        return (*results, means.new_empty((), dtype=torch.int64)) if hint else results

    def fake_backward(grad_image, grad_alpha, grad_depth, grad_normals, *inputs):
        return tuple(new(x, x) for x in inputs[:6])

    settings = f"{SCENE}, {hint}" if hint else SCENE
    upstream = "Tensor grad_image, Tensor grad_alpha, Tensor grad_depth, Tensor grad_normals"
    results = 5 if hint else 4
    inputs = f"({upstream}, {settings}, bool want_rays)"
    adjoint = define(f"{prefix}render_backward", f"{inputs} -> {tensors(6)}", backward, fake_backward, devices)
    adjoint.register_autograd(refuse("voge.render", backend))
    operator = define(f"{prefix}render", f"({settings}) -> {tensors(results)}", forward, fake, devices)

    def setup(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:8])
        ctx.settings = inputs[8:]

    def derive(ctx, *upstream):
        want_rays = ctx.needs_input_grad[4] or ctx.needs_input_grad[5]
        grads = adjoint(*upstream[:4], *ctx.saved_tensors, *ctx.settings, want_rays)
        return *grads, None, None, *(None for _ in ctx.settings)

    operator.register_autograd(derive, setup_context=setup)
    return operator


# ---- the fragments route


def trace(prefix: str, body: Body, devices: str | None, most: bool = False) -> Any:
    """Hits of every ray by ascending length: indices (B, rays, max_hits), -1 for none, and no offsets; or, with
    max_hits 0, flat indices (M,) and offsets (B * rays + 1,).

    With `most` there is one more result: the most hits of a ray, on the CPU.
    """

    def fake(means, precisions, density, origins, directions, valid, projection, height, width, max_hits, *settings):
        batch, rays = max(means.shape[0], directions.shape[0]), directions.shape[1]
        if max_hits > 0:
            sizes = (batch, rays, max_hits), 0
        else:
            sizes = (torch.library.get_ctx().new_dynamic_size(),), batch * rays + 1
        results = tuple(means.new_empty(size, dtype=torch.int64) for size in sizes)
        return (*results, torch.empty((), dtype=torch.int64)) if most else results

    return define(
        f"{prefix}trace",
        f"({GAUSSIANS}, {RAYS}, {PICTURE}, {HITS}) -> {tensors(3 if most else 2)}",
        body,
        fake,
        devices,
    )


def hits(prefix: str, forward: Body, backward: Body, backend: str, devices: str | None) -> Any:
    """Lengths, peaks and widths of the slots; 0, 0 and 1 where they are empty."""
    inputs = f"Tensor indices, Tensor offsets, {GAUSSIANS}, {RAYS}, bool world"

    def fake(indices, offsets, means, *rest):
        return tuple(new(means, indices) for _ in range(3))

    def fake_backward(*inputs):
        return tuple(new(x, x) for x in inputs[5:10])

    adjoint = define(
        f"{prefix}hits_backward",
        f"(Tensor grad_lengths, Tensor grad_peaks, Tensor grad_widths, {inputs}) -> {tensors(5)}",
        *(backward, fake_backward, devices),
    )
    adjoint.register_autograd(refuse("voge.trace", backend))
    operator = define(f"{prefix}hits", f"({inputs}) -> {tensors(3)}", forward, fake, devices)

    def setup(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:7])
        ctx.world = inputs[7]

    def derive(ctx, *grads):
        return None, None, *adjoint(*grads, *ctx.saved_tensors, ctx.world), None

    operator.register_autograd(derive, setup_context=setup)
    return operator


def weights(prefix: str, forward: Body, backward: Body, backend: str, devices: str | None, most: bool = False) -> Any:
    """Weights of the slots by "hermite" or "segments"; `most` as in `trace`."""
    kept = 5 if most else 4
    hits = "Tensor lengths, Tensor peaks, Tensor widths, Tensor offsets" + ", Tensor most" * most
    inputs = f"{hits}, str quadrature, SymInt points"

    def fake(lengths, *rest):
        return new(lengths, lengths)

    def fake_backward(grad, lengths, *rest):
        return tuple(new(lengths, lengths) for _ in range(3))

    adjoint = define(
        f"{prefix}weights_backward", f"(Tensor grad, {inputs}) -> {tensors(3)}", backward, fake_backward, devices
    )
    adjoint.register_autograd(refuse("voge.trace", backend))
    operator = define(f"{prefix}weights", f"({inputs}) -> Tensor", forward, fake, devices)

    def setup(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:kept])
        ctx.rule = inputs[kept:]

    def derive(ctx, grad):
        return *adjoint(grad, *ctx.saved_tensors, *ctx.rule), *([None] * (kept - 1))

    operator.register_autograd(derive, setup_context=setup)
    return operator


class Products(NamedTuple):
    """F = sum over slots of w <x of the slot's Gaussian, y of its ray>, linear in w (slots), x (items, N, C) and
    y (B * rays, C); the rays are split evenly between the items of x. Each operator is one derivative of F, and the
    other two are its adjoint."""

    gather: Any  # dF/dy (B * rays, C): the weighted sum of x along every ray
    scatter: Any  # dF/dx (items, N, C): the weighted sum of y over the rays that meet each Gaussian
    pair: Any  # dF/dw, of the slots' shape: the scalar product of x and y in every slot


def products(prefix: str, bodies: Products, devices: str | None) -> Products:
    def fake_gather(weights, indices, offsets, x):
        return x.new_empty(slot_rays(indices, offsets), x.shape[2])

    def fake_scatter(weights, indices, offsets, y, items, num):
        return y.new_empty(items, num, y.shape[1])

    def fake_pair(x, y, indices, offsets):
        return new(x, indices)

    slots = "Tensor indices, Tensor offsets"
    operators = Products(
        define(f"{prefix}gather", f"(Tensor weights, {slots}, Tensor x) -> Tensor", bodies[0], fake_gather, devices),
        define(
            f"{prefix}scatter",
            f"(Tensor weights, {slots}, Tensor y, SymInt items, SymInt num) -> Tensor",
            *(bodies[1], fake_scatter, devices),
        ),
        define(f"{prefix}pair", f"(Tensor x, Tensor y, {slots}) -> Tensor", bodies[2], fake_pair, devices),
    )
    gather, scatter, pair = operators

    def keep(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4])

    def derive_gather(ctx, grad_y):
        weights, indices, offsets, x = ctx.saved_tensors
        return pair(x, grad_y, indices, offsets), None, None, scatter(weights, indices, offsets, grad_y, *x.shape[:2])

    def derive_scatter(ctx, grad_x):
        weights, indices, offsets, y = ctx.saved_tensors
        return pair(grad_x, y, indices, offsets), None, None, gather(weights, indices, offsets, grad_x), None, None

    def derive_pair(ctx, grad_w):
        x, y, indices, offsets = ctx.saved_tensors
        grad_x = scatter(grad_w, indices, offsets, y, *x.shape[:2])
        return grad_x, gather(grad_w, indices, offsets, x), None, None

    for operator, derive in zip(operators, (derive_gather, derive_scatter, derive_pair), strict=True):
        operator.register_autograd(derive, setup_context=keep)
    return operators
