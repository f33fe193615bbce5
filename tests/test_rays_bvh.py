"""Lists of rays: what the tree of boxes finds is what trying every Gaussian finds, whatever the scene and the rays."""

import threading

import pytest
import torch

import voge
from voge import _cpu, reference

EYE = torch.eye(3, dtype=torch.float64)


def rotations(num, g):
    q, _ = torch.linalg.qr(torch.randn(num, 3, 3, generator=g, dtype=torch.float64))
    return q


def precisions(sigmas, g):
    q = rotations(len(sigmas), g)
    p = (q / sigmas[:, None, :] ** 2) @ q.mT
    return (p + p.mT) / 2


def cloud(num, g, sigma=0.1):
    """Anisotropic Gaussians in the unit cube around 0, up to ten times as long as wide."""
    sigmas = sigma * torch.exp(torch.rand(num, 3, generator=g, dtype=torch.float64) * 2.3 - 1.5)
    return torch.rand(num, 3, generator=g, dtype=torch.float64) - 0.5, precisions(sigmas, g)


def nested(num, g):
    """Shells around one centre, 1 : 1e4 in size, and many that coincide exactly."""
    sigmas = torch.logspace(-4, 0, num, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.7, 1.3])
    means = torch.randn(num, 3, generator=g, dtype=torch.float64) * sigmas * 0.1
    means[: num // 4], sigmas[: num // 4] = means[0], sigmas[0]
    return means, precisions(sigmas, g)


def dust(num, g):
    """Specks far apart, a few of them huge, on scales from 1e-3 to 1e3."""
    scale = 10 ** (torch.rand(num, 1, generator=g, dtype=torch.float64) * 6 - 3)
    means = torch.randn(num, 3, generator=g, dtype=torch.float64) * scale
    sigmas = scale * torch.tensor([0.3, 0.1, 0.02], dtype=torch.float64)
    return means, precisions(sigmas.expand(num, 3), g)


def needles(num, g):
    """Along the axes, a thousand times as long as thick, on a grid."""
    axis = torch.randint(3, (num,), generator=g)
    sigmas = torch.full((num, 3), 1e-3, dtype=torch.float64)
    sigmas[torch.arange(num), axis] = 1.0
    means = (torch.randint(5, (num, 3), generator=g) - 2).double()
    return means, torch.diag_embed(sigmas**-2)


SCENES = {"cloud": cloud, "nested": nested, "dust": dust, "needles": needles}


def random_rays(num, g, means, aimed=0.5):
    """From inside the scene and beside it, half of them at a Gaussian, some along an axis, some not valid."""
    origins = torch.randn(num, 3, generator=g, dtype=torch.float64) * 0.7
    directions = torch.randn(num, 3, generator=g, dtype=torch.float64)
    targets = means[torch.randint(len(means), (num,), generator=g)]
    aim = torch.rand(num, generator=g) < aimed
    directions = torch.where(aim[:, None], targets - origins, directions)
    along = torch.arange(num) % 5 == 0
    sides = torch.randint(2, (num, 1), generator=g) * 2.0 - 1
    directions = torch.where(along[:, None], EYE[torch.randint(3, (num,), generator=g)] * sides, directions)
    origins = torch.where(along[:, None], origins.round(decimals=0), origins)  # in the needles' grid
    origins[1::7] = targets[1::7]  # in a Gaussian's middle
    valid = torch.rand(num, generator=g) < 0.9
    directions[~valid] = 0.1
    return voge.Rays(origins, directions, valid)


@pytest.fixture
def tree(monkeypatch):
    """Switches between always a tree and never one."""
    return lambda wanted: monkeypatch.setenv("VOGE_TREE", str(int(wanted)))


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def fields(f):
    return f.indices, f.weights, f.lengths, f.peaks, f.widths


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("threshold", [0.01, 0.0])
@pytest.mark.parametrize("max_hits", [1, 7, None])
def test_equals_the_reference(name, threshold, max_hits, tree):
    g = torch.Generator().manual_seed(5)
    means, p = SCENES[name](300, g)
    rays = random_rays(150, g, means)
    gaussians = voge.Gaussians(means, p, torch.rand(300, generator=g, dtype=torch.float64) + 0.1)
    settings = {"max_hits": max_hits, "threshold": threshold, "near": 0.05}
    tree(True)
    got = voge.trace(gaussians, rays, **settings)
    tree(False)
    assert same_bits(fields(got), fields(voge.trace(gaussians, rays, **settings)))
    want = voge.trace(gaussians, rays, **settings, backend="reference")
    # Gaussians at one length (up to rounding) may stand in either order: every one must be at the length it claims.
    hit = want.indices >= 0
    assert hit.sum() > 60
    assert torch.equal(got.indices >= 0, hit)
    torch.testing.assert_close(got.lengths, want.lengths, rtol=1e-8, atol=1e-8)
    if max_hits is None:
        assert torch.equal(got.offsets, want.offsets)
        ray = torch.repeat_interleave(got.offsets.diff())
    else:
        ray = torch.arange(150)[:, None].expand_as(got.indices)
    lengths, peaks, *_ = reference.hits(means, p, gaussians.density, rays.origins, rays.directions)
    at = ray[hit], got.indices[hit]
    torch.testing.assert_close(lengths[at], want.lengths[hit], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(peaks[at], got.peaks[hit], rtol=1e-6, atol=1e-9)
    pairs = ray[hit] * 300 + got.indices[hit]
    assert len(pairs.unique()) == len(pairs)


@pytest.mark.parametrize("isa", _cpu.isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_hits", [1, 5, None])
def test_tree_and_no_tree_give_the_same_bits(isa, dtype, max_hits, tree, monkeypatch):
    """Both routes, far away too, where rounding decides at the threshold."""
    monkeypatch.setenv("VOGE_ISA", isa)
    for name, make in SCENES.items():
        g = torch.Generator().manual_seed(1)
        means, p = make(400, g)
        features = torch.rand(400, 3, generator=g, dtype=torch.float64)
        for away in (0.0, 1e3) if dtype == torch.float32 else (0.0,):
            rays = random_rays(130, g, means)
            inputs = [means + away, p, features, rays.origins + away, rays.directions]
            leaves = [x.to(dtype).requires_grad_() for x in inputs]

            def run(leaves=leaves, valid=rays.valid):
                means, p, features, origins, directions = leaves
                gaussians, rays = voge.Gaussians(means, p), voge.Rays(origins, directions, valid)
                o = voge.render(gaussians, rays, features, max_hits=max_hits)
                f = voge.trace(gaussians, rays, max_hits=max_hits)
                grads = torch.autograd.grad(o.features.sum() + o.depth.sum(), leaves)
                return [*(x.detach() for x in (*o[:3], *fields(f))), *grads]

            tree(True)
            got = run()
            tree(False)
            assert got[1].max() > 0, name
            assert same_bits(got, run()), (name, away)


def test_far_small_gaussians_in_single_precision_lose_no_hit(tree):
    """Seen along an axis from so far that rounding carries hits out of a Gaussian's box: there is room for that."""
    g = torch.Generator().manual_seed(3)
    sigmas = 3e-3 * torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64).expand(2000, 3)
    means = torch.randn(2000, 3, generator=g, dtype=torch.float64) * 0.1
    origins = means[torch.randint(2000, (3000,), generator=g)]
    origins = origins + 7e-3 * torch.randn(3000, 3, generator=g, dtype=torch.float64)
    origins[:, 2] -= 3e4
    gaussians = voge.Gaussians(means.float(), precisions(sigmas, g).float())
    rays = voge.Rays(origins.float(), EYE[2].float().expand(3000, 3))
    for max_hits in (None, 1, 2):
        tree(True)
        got = voge.trace(gaussians, rays, max_hits=max_hits)
        tree(False)
        assert (got.indices >= 0).sum() > 500
        assert same_bits(fields(got), fields(voge.trace(gaussians, rays, max_hits=max_hits)))


def test_threads_do_not_change_a_bit(tree):
    g = torch.Generator().manual_seed(2)
    means, p = cloud(3000, g, 0.05)
    rays = random_rays(1000, g, means)
    leaves = [x.float().requires_grad_() for x in (means, p, rays.origins, rays.directions)]
    tree(True)

    def run():
        o = voge.render(voge.Gaussians(*leaves[:2]), voge.Rays(*leaves[2:], rays.valid), leaves[0].detach(), max_hits=9)
        return *o[:3], *torch.autograd.grad(o.features.sum() + o.depth.sum(), leaves)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run()
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert same_bits(run(), alone)
    finally:
        torch.set_num_threads(before)


def test_moved_gaussians_give_what_a_new_tree_gives(tree):
    """The second call finds the tree of the first; a third with everything elsewhere outgrows it."""
    g = torch.Generator().manual_seed(4)
    means, p = cloud(2111, g, 0.05)  # no other test has so many
    rays = random_rays(500, g, means)
    tree(True)
    voge.trace(voge.Gaussians(means, p), rays, max_hits=4)
    shuffled = means[torch.randperm(2111, generator=g)]
    for moved in (means + 0.01 * torch.randn(2111, 3, generator=g, dtype=torch.float64), shuffled, shuffled * 3):
        gaussians = voge.Gaussians(moved, p)
        tree(True)
        got = [fields(voge.trace(gaussians, rays, max_hits=k)) for k in (4, None)]
        tree(False)
        assert (got[1][0] >= 0).sum() > 100
        assert all(map(same_bits, got, [fields(voge.trace(gaussians, rays, max_hits=k)) for k in (4, None)]))


def test_scenes_of_a_batch_have_trees_of_their_own(tree):
    """Batches of Gaussians, of rays, and of both, with an origin a ray and one for all."""
    g = torch.Generator().manual_seed(6)
    means, p = (torch.stack(x) for x in zip(*(cloud(200, g) for _ in range(3)), strict=True))
    rays = [random_rays(130, g, m) for m in means]
    origins, directions, valid = (torch.stack(x) for x in zip(*rays, strict=True))
    tree(True)
    for gaussians, shape in ((voge.Gaussians(means, p), 3), (voge.Gaussians(means[:1], p[:1]), 1)):
        for o in (origins, origins[:, :1]):
            f = voge.trace(gaussians, voge.Rays(o, directions, valid), max_hits=6)
            for b in range(3):
                alone = voge.Gaussians(means[b % shape], p[b % shape])
                one = voge.trace(alone, voge.Rays(o[b], directions[b], valid[b]), max_hits=6)
                assert (one.indices >= 0).sum() > 50
                assert torch.equal(f.indices[b], one.indices)
                torch.testing.assert_close(f.weights[b], one.weights, rtol=1e-12, atol=1e-12)


def test_gradients_of_origins_and_directions(tree):
    g = torch.Generator().manual_seed(7)
    means, p = cloud(150, g, 0.2)
    rays = random_rays(12, g, means)
    features = torch.rand(150, 2, generator=g, dtype=torch.float64)
    tree(True)

    def render(origins, directions, max_hits):
        o = voge.render(voge.Gaussians(means, p), voge.Rays(origins, directions, rays.valid), features, max_hits)
        return o.features, o.alpha, o.depth

    beside = rays.origins - 0.01 * rays.directions  # not in a middle, where a step makes a Gaussian come and go
    for origins in (beside, beside[:1]):
        for max_hits in (3, None):
            leaves = (origins.clone().requires_grad_(), rays.directions.clone().requires_grad_())
            assert render(*leaves, max_hits)[1].max() > 0.1
            torch.autograd.gradcheck(lambda o, d, k=max_hits: render(o, d, k), leaves, eps=1e-7, atol=1e-6, rtol=1e-5)


def test_rays_that_are_not_valid_may_hold_anything(tree):
    g = torch.Generator().manual_seed(8)
    means, p = cloud(300, g)
    rays = random_rays(200, g, means)
    tree(True)
    want = voge.render(voge.Gaussians(means, p), rays, means)
    directions = torch.where(rays.valid[:, None], rays.directions, torch.nan)
    got = voge.render(voge.Gaussians(means, p), voge.Rays(rays.origins, directions, rays.valid), means)
    assert same_bits(got[:3], want[:3])
    assert not got.alpha[~rays.valid].any()
    nothing = voge.render(voge.Gaussians(means, p), rays._replace(valid=torch.zeros(200, dtype=torch.bool)), means)
    assert not nothing.alpha.any()


@pytest.mark.parametrize("num", [0, 1, 2, 17])
@pytest.mark.parametrize("count", [1, 65])
def test_few_of_either(num, count, tree):
    g = torch.Generator().manual_seed(9)
    means, p = torch.randn(num, 3, generator=g, dtype=torch.float64) * 0.1, EYE.expand(num, 3, 3) * 4
    origins = torch.tensor([[0.0, 0.0, -5.0]], dtype=torch.float64)
    directions = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64).expand(count, 3)
    tree(True)
    f = voge.trace(voge.Gaussians(means, p), voge.Rays(origins, directions), max_hits=20)
    assert torch.equal((f.indices >= 0).sum(-1), torch.full((count,), num))
    if num and count:
        assert (f.lengths[:, 0] - means[:, 2].min() - 5).abs().max() < 0.05


def test_images_as_lists_of_rays_equal_images(tree):
    """The tree against the tiles: two ways to the same hits."""
    g = torch.Generator().manual_seed(10)
    means, p = cloud(2000, g, 0.03)
    camera = voge.Cameras.look_at(
        eye=torch.tensor([0.3, 0.2, -1.0], dtype=torch.float64), focal=60.0, image_size=(40, 56)
    )
    tree(True)
    for max_hits in (5, None):
        a = voge.render(voge.Gaussians(means, p), camera, means.abs(), max_hits=max_hits)
        b = voge.render(voge.Gaussians(means, p), camera.rays(), means.abs(), max_hits=max_hits)
        assert a.alpha.max() > 0.9
        for x, y in zip(a[:3], b[:3], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_threads_that_render_at_once_share_the_trees(tree):
    g = torch.Generator().manual_seed(11)
    scenes = [cloud(1234, g, 0.05) for _ in range(3)]
    rays = random_rays(200, g, scenes[0][0])
    tree(False)
    want = [fields(voge.trace(voge.Gaussians(*s), rays, max_hits=5)) for s in scenes]
    tree(True)
    wrong = []

    def work(i):
        for _ in range(10):
            if not same_bits(fields(voge.trace(voge.Gaussians(*scenes[i]), rays, max_hits=5)), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
