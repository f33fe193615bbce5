"""voge.checks and voge.rays: messages name the argument, what came and what is expected."""

import math

import pytest
import torch

from voge import checks
from voge.rays import Rays, check_shapes


def test_tensor_accepts_batches_and_returns_the_tensor():
    for shape in ((5, 3), (2, 5, 3), (1, 0, 5, 3), (0, 3)):
        value = torch.zeros(shape)
        assert checks.tensor("means", value, ("N", 3), dtype=checks.REAL, device=value.device, finite=True) is value
    assert checks.tensor("focal", torch.tensor(2.0), ()).ndim == 0


@pytest.mark.parametrize(
    ("value", "options", "error", "words"),
    [
        ([1.0, 2.0, 3.0], {}, TypeError, ("list", "(..., N, 3)")),
        (torch.zeros(4, 3, dtype=torch.int64), {}, TypeError, ("torch.int64", "floating")),
        (
            torch.zeros(4, 3).half(),
            {"dtype": checks.REAL},
            TypeError,
            ("torch.float16", "torch.float32 or torch.float64"),
        ),
        (torch.zeros(4, 3), {"dtype": torch.float64}, TypeError, ("torch.float32", "expected torch.float64")),
        (torch.zeros(4, 2), {}, ValueError, ("(4, 2)", "(..., N, 3)")),
        (torch.zeros(3), {}, ValueError, ("(3,)", "(..., N, 3)")),
        (torch.zeros(4, 3, device="meta"), {"device": torch.device("cpu")}, ValueError, ("meta", "cpu")),
        (torch.tensor([[0, 1, 2], [0, math.nan, 2]]), {"finite": True}, ValueError, ("nan", "(1, 1)", "finite")),
        (torch.tensor([[-math.inf, 1, 2]]), {"finite": True}, ValueError, ("-inf", "(0, 0)", "finite")),
    ],
)
def test_tensor_errors(value, options, error, words):
    with pytest.raises(error, match=r"^means: ") as raised:
        checks.tensor("means", value, ("N", 3), **options)
    assert all(word in str(raised.value) for word in words), raised.value


def test_equal_names_are_equal_sizes():
    checks.tensor("a", torch.zeros(2, 4, 4), ("N", "N"))
    with pytest.raises(ValueError, match=r"a: expected shape \(\.\.\., N, N\), got \(2, 3, 4\)"):
        checks.tensor("a", torch.zeros(2, 3, 4), ("N", "N"))


def test_broadcast_batch_agrees_with_torch():
    shapes = {"a": (3, 1), "b": (), "c": (1, 4), "d": (2, 1, 1)}
    assert checks.broadcast_batch(**shapes) == torch.broadcast_shapes(*shapes.values())
    assert checks.broadcast_batch(a=(0,), b=(1,)) == (0,)
    assert checks.broadcast_batch() == ()
    with pytest.raises(ValueError, match=r"c: batch \(2, 5\) does not broadcast with batch \(3, 1\) of a$"):
        checks.broadcast_batch(a=(3, 1), b=(1, 5), c=(2, 5))


@pytest.mark.parametrize("value", [3, "ab", (3.0, 4), (3, 4, 5), (True, 2), None])
def test_image_size_type_errors(value):
    with pytest.raises(TypeError, match="image_size: expected"):
        checks.image_size("image_size", value)


def test_image_size():
    assert checks.image_size("image_size", torch.tensor([3, 4])) == (3, 4)
    with pytest.raises(ValueError, match=r"image_size: .* at least 1, got \(0, 4\)"):
        checks.image_size("image_size", (0, 4))


def test_rays_shape_and_check():
    rays = Rays(torch.zeros(2, 1, 1, 3), torch.ones(4, 5, 3), torch.ones(4, 5, dtype=torch.bool))
    assert rays.shape == (2, 4, 5)
    assert rays.check() is rays


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"origins": torch.zeros(7, 3)}, ValueError, "rays.directions|rays.origins"),
        ({"origins": torch.zeros(3, dtype=torch.float64)}, TypeError, "rays.origins: expected torch.float32"),
        ({"directions": torch.zeros(5, 4)}, ValueError, r"rays.directions: expected shape \(\.\.\., 3\), got \(5, 4\)"),
        ({"directions": torch.zeros(5, 3, dtype=torch.bool)}, TypeError, "rays.directions: .*bool"),
        ({"valid": torch.ones(5)}, TypeError, "rays.valid: expected a torch.bool tensor or None, got torch.float32"),
        ({"valid": [True]}, TypeError, "rays.valid: .* got list"),
        ({"valid": torch.ones(6, dtype=torch.bool)}, ValueError, "rays.valid: batch"),
    ],
)
def test_rays_shape_errors(change, error, words):
    rays = Rays(torch.zeros(3), torch.ones(5, 3))._replace(**change)
    with pytest.raises(error, match=words):
        check_shapes(rays)


@pytest.mark.parametrize(("value", "words"), [(0.0, r"length above zero at index \(3,\)"), (math.inf, "finite")])
def test_rays_value_errors(value, words):
    directions = torch.ones(5, 3)
    directions[3] = value
    with pytest.raises(ValueError, match="rays.directions: .*" + words):
        Rays(torch.zeros(3), directions).check()
    with pytest.raises(ValueError, match=r"rays.origins: expected finite"):
        Rays(torch.full((3,), math.nan), torch.ones(5, 3)).check()
