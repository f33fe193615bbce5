"""voge.distributed under torchrun with gloo on two and three processes, against one process."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import voge
import voge.distributed
from voge.distributed import plan

ROOT = Path(__file__).parent.parent
WORKER = ROOT / "tests" / "distributed" / "worker.py"


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = _load(WORKER.with_name("cases.py"))
worker = _load(WORKER)
CASES = cases.cases()


def torchrun(ranks, *arguments):
    """Its exit status and what it wrote to stderr."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", str(ranks), WORKER, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stderr


def succeed(ranks, *arguments):
    status, errors = torchrun(ranks, *arguments)
    assert status == 0, errors


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a job whose second rank kills itself, and what the job said."""
    folder = tmp_path_factory.mktemp("killed")
    return folder, *torchrun(2, folder, "train:killed:8")


@pytest.fixture(scope="module")
def two(tmp_path_factory, killed):
    """The folder of a job of two ranks, which also trains on from the killed job's checkpoint."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(killed[0] / "killed", folder / "killed")
    (folder / "killed" / "step-00000009-rank-0-of-2.pt").write_bytes(b"what a rank had written of the next one")
    succeed(2, folder, "page", "compare", "views", "disagree", "train:whole", "train:killed")
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory, killed):
    """The same of three ranks."""
    folder = tmp_path_factory.mktemp("three")
    shutil.copytree(killed[0] / "killed", folder / "killed")
    succeed(3, folder, "compare", "views", "train:killed")
    return folder


@pytest.fixture(params=[2, 3])
def job(request):
    """Folder and number of ranks."""
    return request.getfixturevalue({2: "two", 3: "three"}[request.param]), request.param


def results(job, name):
    folder, ranks = job
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(ranks)]


def one_process(case):
    """What is rendered, the loss, and leaves with their gradients."""
    x = cases.leaves(case, case.gaussians)
    positional, settings = cases.arguments(case, x)
    rendering = voge.render(*positional, **settings)
    rendering = {field: value for field, value in rendering._asdict().items() if value is not None}
    loss = sum((value * cases.weights(value)).sum() for value in rendering.values())
    loss.backward()
    return rendering, loss.detach(), x


def close(got, want, dtype):
    """To 1e-6 of the largest entry in float32, 1e-12 in float64."""
    scale = want.abs().max().item() if want.numel() else 1.0
    torch.testing.assert_close(got, want, rtol=0, atol=scale * (1e-6 if dtype == torch.float32 else 1e-12))


@pytest.mark.parametrize("name", CASES)
def test_pictures_losses_and_gradients_are_those_of_one_process(job, name):
    case, ranks = CASES[name], results(job, name)
    rendering, loss, x = one_process(case)
    assert rendering["alpha"].any() == (name != "no Gaussians")
    assert ("normals" in rendering) == (name == "normals")
    for field, want in rendering.items():
        for result in ranks:
            if name in ("rays", "reference"):  # not in the same blocks
                close(result["pictures"][field], want, want.dtype)
            else:
                assert torch.equal(result["pictures"][field], want), field
    close(sum(result["loss"] for result in ranks), loss, loss.dtype)
    for key, leaf in x.items():
        grads = [result["grads"][key] for result in ranks]
        if key in case.fixed:
            assert grads == [None] * len(ranks)
        elif key in case.view:
            close(grads[0], leaf.grad, leaf.dtype)
            assert all(torch.equal(grad, grads[0]) for grad in grads)  # or copies of a parameter would drift apart
        else:
            assert leaf.grad.any() or not leaf.numel(), key
            want = leaf.grad.split(worker.sizes(len(leaf), len(ranks)))
            for rank, grad in enumerate(grads):
                if name == "fixed" and rank == 0:
                    assert grad is None
                else:
                    close(grad, want[rank], leaf.dtype)


@pytest.mark.parametrize("name", ["float64", "batch"])
def test_only_gaussians_that_touch_a_part_travel_there(job, name):
    case, ranks = CASES[name], results(job, name)
    (gaussians, cameras, _), _ = cases.arguments(case, case.gaussians | case.view)
    height, width = case.image_size
    edges = ranks[0]["edges"]
    assert edges[0] == 0 and edges[-1] == height and sorted(edges) == list(edges)
    for rank, result in enumerate(ranks):
        assert result["edges"] == edges
        assert [other["sent"][rank] for other in ranks] == list(result["received"])
        hits = voge.trace(gaussians, cameras.crop((0, edges[rank], width, edges[rank + 1])))
        touching = hits.indices.unique().numel()
        assert touching <= sum(result["received"]) <= 1.5 * touching


@pytest.mark.parametrize("threshold", [0.01, 0.5])
@pytest.mark.parametrize("eye", [0.0, 3.0])
def test_tiles_hold_every_hit_and_little_else(threshold, eye):
    size = (121, 150)
    scene = cases.scene(250, 1, torch.float64)
    gaussians = voge.Gaussians(scene["means"], scene["precisions"])
    view = cases.cameras(size, torch.float64, (3,), eye=eye)
    view["K"] = torch.tensor([[80.0, 6, 60], [0, 110, 70], [0, 0, 1]], dtype=torch.float64)  # skewed, off centre
    cameras = voge.Cameras(**view, image_size=size)
    pairs = spare = 0
    for camera, bounds in zip(cameras, plan.tiles(gaussians, cameras, threshold), strict=True):
        hits = voge.trace(gaussians, camera, threshold=threshold)
        ray = torch.repeat_interleave(torch.arange(size[0] * size[1]), hits.offsets.diff())
        touched = torch.zeros(gaussians.num, 16, 19, dtype=torch.bool)
        touched[hits.indices, ray // size[1] // 8, ray % size[1] // 8] = True
        x0, x1, y0, y1 = (x[:, None, None] for x in bounds)
        y, x = torch.arange(16)[:, None], torch.arange(19)
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        assert not (touched & ~inside).any()
        around = gaussians.means @ camera.R[2] + camera.t[2] > 1  # away from the camera's plane
        spare += (inside & ~touched)[around].sum().item()
        pairs += touched[around].sum().item()
    assert pairs > 500 and spare < pairs  # an ellipse fills about half of the tiles of its box


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_rays_get_every_gaussian_that_they_meet_and_few_others(spread):
    """A panorama's rows; origins in one place, or up to `spread` beside it."""
    generator = torch.Generator().manual_seed(4)
    up, around = torch.meshgrid(torch.linspace(-1.5, 1.5, 60), torch.linspace(0, 6.28, 120), indexing="ij")
    directions = torch.stack([up.cos() * around.cos(), up.sin(), up.cos() * around.sin()], -1).double()
    origins = spread * (torch.rand(60, 120, 3, generator=generator, dtype=torch.float64) - 0.5)
    valid = torch.rand(60, 120, generator=generator) < 0.8
    rays = voge.Rays(origins if spread else origins[0, 0], 3 * directions, valid)
    scene = cases.scene(900, 1, torch.float64)
    means = 8 * (torch.rand(900, 3, generator=generator, dtype=torch.float64) - 0.5)
    gaussians = voge.Gaussians(means, scene["precisions"] / 4)
    hits = voge.trace(gaussians, rays, threshold=0.01)
    row = torch.repeat_interleave(torch.arange(60 * 120), hits.offsets.diff()) // 120
    edges = [0, 20, 20, 60]
    found = plan.along(gaussians, rays, edges, 0.01)
    assert len(found[1]) == 0
    for (start, stop), indices in zip(pairwise(edges), found, strict=True):
        met = set(hits.indices[(start <= row) & (row < stop)].tolist())
        assert met <= set(indices.tolist())
        assert len(indices) <= 1.5 * len(met) and (len(met) > 200 or start == stop)


def test_parts_hold_equal_numbers_of_pairs():
    """The scene lies below the middle of a high picture: even bands would leave all to the last rank."""
    case = CASES["float64"]
    (gaussians, cameras, _), _ = cases.arguments(case, case.gaussians | case.view)
    shape = (400, 52)
    high = voge.Cameras(cameras.R, cameras.t, cameras.K + torch.tensor([[0.0, 0, 0], [0, 0, 350], [0, 0, 0]]), shape)
    pairs = torch.zeros(50)
    for x0, x1, y0, y1 in plan.tiles(gaussians, high, 0.01):
        for row in range(50):
            pairs[row] = ((x1 - x0).clamp(min=0) * ((y0 <= row) & (row < y1))).sum() + 7
    for ranks in (2, 3, 4):
        edges = plan.cuts(pairs.double(), ranks)
        shares = [pairs[a:b].sum() for a, b in pairwise(edges)]
        assert max(shares) - min(shares) <= 2 * pairs.max()
        assert edges[1] > 25


def test_views_split_by_data_parallel_have_the_gradient_of_one_process(job):
    x, view = worker.views_scene()
    for leaf in x.values():
        leaf.requires_grad_()
    voge.render(voge.Gaussians(x["means"], x["precisions"]), view, x["features"]).features.square().mean().backward()
    for grads in results(job, "parallel"):
        for name, leaf in x.items():
            close(grads[name], leaf.grad, leaf.dtype)


def test_what_differs_between_the_ranks_is_named(two):
    for rank, (channels, cameras, missing, calls) in enumerate(results((two, 2), "disagree")):
        assert channels == (
            "features: expected the same on every rank, got another on rank 1 than on rank 0 "
            f"(here, rank {rank}: '{3 - rank} channels')"
        )
        assert cameras.startswith("cameras_or_rays: expected the same on every rank")
        assert missing.startswith("background: expected the same on every rank")
        assert calls.startswith("calls of voge.distributed: expected the same on every rank")


def test_a_killed_rank_ends_the_job_with_a_message(killed):
    folder, status, errors = killed
    assert status != 0
    assert re.search(r"rank 0: .* failed, because rank 1 \(process \d+\) ended. Start the job again", errors), errors
    assert re.search(r"rank +: 1 .*\n.*exitcode +: -9", errors), errors  # torchrun's own summary
    assert json.loads((folder / "killed" / "checkpoint.json").read_text())["step"] == 6
    assert not list(folder.glob("killed-2-*.pt"))


def test_training_resumes_bit_for_bit(two):
    for rank in range(2):
        whole, resumed = (torch.load(two / f"{name}-2-{rank}.pt", weights_only=True) for name in ("whole", "killed"))
        assert resumed["first"] == 6 and whole["first"] == 0
        assert resumed["losses"] == whole["losses"][6:]
        assert whole["losses"][-1] < 0.8 * whole["losses"][0]
        for name in ("means", "features", "absorptivity"):
            assert torch.equal(resumed[name], whole[name]), name
    files = {path.name for path in (two / "killed").iterdir()}
    assert files == {"checkpoint.json", "step-00000012-rank-0-of-2.pt", "step-00000012-rank-1-of-2.pt"}


def test_training_resumes_on_another_number_of_ranks(two, three):
    whole = [torch.load(two / f"whole-2-{rank}.pt", weights_only=True) for rank in range(2)]
    resumed = [torch.load(three / f"killed-3-{rank}.pt", weights_only=True) for rank in range(3)]
    assert [len(x["means"]) for x in resumed] == [30, 30, 30] and resumed[0]["first"] == 6
    for name in ("means", "features"):
        want, got = (torch.cat([x[name] for x in ranks]) for ranks in (whole, resumed))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(resumed[0]["absorptivity"], whole[0]["absorptivity"], rtol=0, atol=1e-5)


def test_script_of_the_documentation_trains(two):
    lines = (two / "page-0.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 10", "step 20", "step 30"]
    losses = [float(line.split()[-1]) for line in lines]
    assert losses[2] < losses[1] < losses[0] < 0.02
    assert json.loads((two / "checkpoints" / "checkpoint.json").read_text())["step"] == 30
    assert (two / "page-1.txt").read_text() == ""


# One rank, in this process.


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def arguments():
    case = CASES["float32"]
    return cases.arguments(case, case.gaussians | case.view)[0]


def test_needs_a_process_group():
    with pytest.raises(RuntimeError, match=r"torchrun.*init_process_group"):
        voge.distributed.render(*arguments())


@pytest.mark.usefixtures("alone")
def test_bad_arguments_are_named():
    gaussians, cameras, features = arguments()
    render = voge.distributed.render
    batch = voge.Gaussians(gaussians.means[None], gaussians.precisions)
    flat = gaussians.precisions.clone()
    flat[7] = 0
    rays = cameras.rays()
    for error, call in (
        ("gaussians: expected a shard", lambda: render(batch, cameras, features)),
        ("precisions: .*7", lambda: render(voge.Gaussians(gaussians.means, flat), cameras, features)),
        ("features: expected shape", lambda: render(gaussians, cameras, features[None])),
        ("features: expected finite", lambda: render(gaussians, cameras, features / 0)),
        ("split: expected one of", lambda: render(gaussians, cameras, features, split="columns")),
        ('cameras: expected a batch for split="views"', lambda: render(gaussians, cameras, features, split="views")),
        ("threshold: ", lambda: render(gaussians, cameras, features, threshold=1.0)),
        ("background: ", lambda: render(gaussians, cameras, features, background=torch.zeros(4))),
        ("background: ", lambda: render(gaussians, cameras, features, background=torch.zeros(42, 52, 3))),
        (
            "rays: expected a dimension",
            lambda: render(gaussians, voge.Rays(rays.origins[0, 0], rays.directions[0, 0]), features),
        ),
        ("rays: expected a dimension", lambda: render(gaussians, voge.Rays(*(x[:0, 0] for x in rays[:2])), features)),
        ("max_hits: ", lambda: render(gaussians, cameras, features, max_hits=0)),
        ("picture: ", lambda: render(gaussians, cameras, features).cut(torch.zeros(44, 52))),
    ):
        with pytest.raises(ValueError, match=error):
            call()


@pytest.mark.usefixtures("alone")
def test_second_derivatives_raise_and_no_grad_keeps_no_graph():
    gaussians, cameras, features = arguments()
    features = features.clone().requires_grad_()
    part = voge.distributed.render(gaussians, cameras, features, backend="reference")
    (grad,) = torch.autograd.grad(part.rendering.features.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
    with torch.no_grad():
        assert not voge.distributed.render(gaussians, cameras, features).rendering.features.requires_grad


@pytest.mark.usefixtures("alone")
def test_checkpoints_refuse_what_they_cannot_restore(tmp_path):
    x, pose, other = (torch.zeros(4, 3, requires_grad=True) for _ in range(3))
    optimizer = torch.optim.Adam([x, pose])
    (x.sum() + pose.sum()).backward()
    optimizer.step()
    folder = tmp_path / "run" / "checkpoints"
    assert voge.distributed.load(folder) is None
    with pytest.raises(ValueError, match=r"optimizer: parameter 1, \(4, 3\), is neither in shards nor in shared"):
        voge.distributed.save(folder, 1, {"x": x, "other": other}, optimizer)
    voge.distributed.save(folder, 1, {"x": x}, optimizer, {"pose": pose, "rng": torch.get_rng_state()})
    voge.distributed.save(folder, 2, {"x": x}, optimizer, {"pose": pose, "note": {"lr": 0.1}})
    found = voge.distributed.load(folder)
    assert found.step == 2 and found.shared["note"] == {"lr": 0.1} and torch.equal(found.shards["x"], x)
    assert found.optimizer["state"][1]["exp_avg"].equal(optimizer.state[pose]["exp_avg"])
    file, manifest = folder / "step-00000002-rank-0-of-1.pt", folder / "checkpoint.json"
    assert sorted(folder.iterdir()) == [manifest, file]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"folder: cannot read .*step-00000002-rank-0-of-1\.pt"):
        voge.distributed.load(folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"folder: cannot read .*step-00000002-rank-0-of-1\.pt"):
        voge.distributed.load(folder)
    torch.save({"shards": {}}, file)
    with pytest.raises(ValueError, match="is not a rank's file"):
        voge.distributed.load(folder)
    for broken in ("", "[]", '{"step": 2}', '{"step": 2, "ranks": "x", "sharded": []}'):
        manifest.write_text(broken)
        with pytest.raises(ValueError, match="is not the manifest of a checkpoint"):
            voge.distributed.load(folder)
