"""The results files, the tables and plots made of them, and the fairness of the comparison with PyTorch3D."""

import copy
import json
import math
import sys

import pytest
import torch
import yaml

import voge
from benchmarks import command, gpu, memory, plots, results, scenes, tables, timing
from voge import _cpu

PROTOCOL = yaml.safe_load((results.ROOT / "benchmarks" / "renderer.yaml").read_text(encoding="utf-8"))
FILES = sorted(results.RESULTS.glob("*.json"))
EXAMPLE = {
    "name": "example-run",
    "metric": "ms",
    "higher_is_better": False,
    "seeds": [0, 1, 2],
    "runs": {"ours": [1.0, 2.0, 4.0], "pulsar": [3.0, 4.0, 20.0]},
    "baselines": ["pulsar"],
    "protocol": "benchmarks/renderer.yaml",
    "seconds": {"ours": [1.0, 1.0, 1.0]},
    "settings": {"arm_threads": {"ours": 2, "pulsar": 1}},
    "versions": results.versions("torch"),
    "machine": results.machine(),
    "data": "rendered",
}


def test_committed_results_obey_the_schema():
    assert {"renderer", "renderer-features", "renderer-scale", "renderer-memory"} <= {path.stem for path in FILES}
    for path in FILES:
        results.read(path.stem)


def test_committed_tables_are_those_of_the_results():
    assert any("<!-- table: renderer -->" in page.read_text(encoding="utf-8") for page in tables.pages())
    for page in tables.pages():
        text = page.read_text(encoding="utf-8")
        assert tables.fill(text) == text, f"{page.name}: run python -m benchmarks.tables"


def test_committed_renderer_results_show_the_protocol_s_scene():
    result = results.read("renderer")
    assert result["settings"]["scene"] == PROTOCOL["scene"]
    assert set(result["baselines"]) == set(PROTOCOL["peers"])
    for peer, agreement in result["settings"]["agreement"].items():
        assert agreement["iou"] > PROTOCOL["minimum_iou"], peer


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Not A Name"),
        ("seeds", []),
        ("seeds", [0, 0, 1]),
        ("seeds", [0, 1]),
        ("runs", {"pulsar": [1.0, 2.0, 3.0]}),
        ("runs", {"ours": [1.0, 2.0, float("nan")]}),
        ("runs", {"ours": [1.0, 2.0, True]}),
        ("baselines", ["ours"]),
        ("baselines", ["nobody"]),
        ("protocol", "no/such/file.yaml"),
        ("seconds", {"nobody": [1.0, 1.0, 1.0]}),
        ("higher_is_better", 1),
        ("data", "somewhere"),
    ],
)
def test_schema_names_the_wrong_field(field, value, tmp_path):
    wrong = copy.deepcopy(EXAMPLE) | {field: value}
    with pytest.raises(ValueError, match=field if (field, value) != ("seeds", [0, 1]) else "runs"):
        results.write(wrong, tmp_path)
    assert not list(tmp_path.iterdir())


def test_schema_rejects_missing_and_unknown_fields():
    with pytest.raises(ValueError, match="machine"):
        results.check({key: value for key, value in EXAMPLE.items() if key != "machine"})
    with pytest.raises(ValueError, match="colour"):
        results.check(EXAMPLE | {"colour": "red"})


def test_write_then_read(tmp_path):
    path = results.write(EXAMPLE, tmp_path)
    assert path == tmp_path / "example-run.json"
    assert results.read("example-run", tmp_path) == EXAMPLE
    assert [file.name for file in tmp_path.iterdir()] == ["example-run.json"]
    path.rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match="name"):
        results.read("other", tmp_path)


def test_fill_writes_once_and_keeps_the_rest():
    files = {"renderer": EXAMPLE, "other": EXAMPLE}
    text = "before\n<!-- table: renderer -->\nold\n<!-- end of table: renderer -->\nafter <!-- table: other -->\n"
    text += "<!-- end of table: other -->\n"
    filled = tables.fill(text, files.__getitem__)
    assert filled.startswith("before\n<!-- table: renderer -->\n| Renderer ") and "old" not in filled
    assert "\nafter <!-- table: other -->\n|" in filled
    assert "| Pulsar | 4.00 ms | 1 | 3.00 times |" in filled  # the median of 3/1, 4/2, 20/4
    assert tables.fill(filled, files.__getitem__) == filled


def test_goals_are_those_of_the_protocol():
    runs = {arm: [2.0, 4.0, 6.0] for arm in ("ours", "fixed", "all-hermite-1")}
    runs |= {"segments-1": [5.0, 10.0, 15.0], "segments-2": [8.0, 16.1, 24.1]}
    runs |= {"all-segments-1": [2.0, 4.0, 6.0], "all-segments-2": [2.0, 4.0, 6.0]}
    runs |= {"mesh": [2002.0, 3996.0, 6001.0], "points": [60.0, 120.0, 180.0], "mitsuba": [88.0, 176.0, 264.0]}
    runs |= {"pulsar": [4.0, 9.0, 12.0]}
    runs |= {f"{hits}-hits-{num}": [1.0, 2.0, 3.0] for hits in ("20", "all") for num in (10_000, 1_000_000)}
    example = EXAMPLE | {"runs": runs, "settings": {"scene": {"subdivisions": 4}, "isa": "avx2"}}
    table = tables.goals(lambda name: example)
    assert table.count("\n") == 2 + len(PROTOCOL["targets"])
    mesh = "| faster than PyTorch3D, soft mesh rasteriser: 2,562 Gaussians | ≥ 1,000 times | 1,000 times | yes |"
    assert mesh in table  # the median of 1001, 999, 1000.2
    assert "≥ 2 times | 2.00 times | yes" in table and "≥ 45 times | 44.0 times | **no** |" in table
    assert "20 hits | ≤ 2.5 times | 2.50 times | yes |" in table and "≤ 4 times | 4.02 times | **no** |" in table
    assert "≤ 0.5 ns | 4.00 ns | **no** |" in table and "≤ 200 μs | 4.00 μs | yes |" in table
    wider = example | {"settings": example["settings"] | {"isa": "avx512"}}
    assert "Pulsar: 2,562 Gaussians | ≥ 3 times | 2.00 times | **no** |" in tables.goals(lambda name: wider)


def test_plot_is_a_picture(tmp_path):
    plots.speed(EXAMPLE, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_alternate_takes_turns():
    order = []
    calls = {arm: lambda arm=arm: order.append(arm) for arm in ("ours", "a", "b")}
    before = torch.get_num_threads()
    try:
        runs, seconds = timing.alternate(calls, dict.fromkeys(calls, 1), rounds=2, repeats=1, budget=1.0)
    finally:
        torch.set_num_threads(before)
    assert order == ["ours", "a", "b"] + ["ours", "a", "ours", "b"] * 2  # the first three warm up
    assert {arm: len(values) for arm, values in runs.items()} == {"ours": 2, "a": 2, "b": 2}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_milliseconds_is_the_median_within_the_budget(monkeypatch):
    clock = iter([0.0, 0.0, 0.001, 0.5, 0.5, 0.503, 0.6, 0.6, 0.602, 1.5])  # begin, then start, end, check of each call
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert timing.milliseconds(lambda: None, repeats=10, budget=1.0) == pytest.approx(2.0)


@pytest.mark.parametrize("peer", list(PROTOCOL["peers"]))
def test_peers_show_what_ours_shows(peer):
    pytest.importorskip("pytorch3d", reason="PyTorch3D is not installed (pip install --no-deps easypytorch3d)")
    from benchmarks import peers

    settings = PROTOCOL["peers"][peer]
    scene = scenes.icosphere(PROTOCOL["scene"] | {"image_size": [96, 96], "focal": 96.0})
    render = mitsuba_or_skip(scene, settings) if peer == "mitsuba" else peers.PEERS[peer](scene, settings)
    ours = scenes.ours(scene, PROTOCOL["ours"])
    silhouette = settings.get("silhouette", 0.01)
    iou, correlation = scenes.agreement(ours, render, scene, silhouette)
    assert iou > 0.93 and correlation > PROTOCOL["minimum_correlation"]
    flipped, _ = scenes.agreement(ours, lambda means, features: render(means, features).roll(20, 0), scene, silhouette)
    assert flipped < 0.8
    _, mirrored = scenes.agreement(ours, lambda means, features: render(means, features).flip(1), scene, silhouette)
    assert abs(mirrored) < 0.1


def mitsuba_or_skip(scene, settings):
    pytest.importorskip("pytorch3d", reason="PyTorch3D is not installed (pip install --no-deps easypytorch3d)")
    from benchmarks import peers

    try:
        return peers.mitsuba(scene, settings)
    except ImportError as missing:
        pytest.skip(
            f"Mitsuba 3 does not load (pip install -r requirements/bench.txt, apt-get install libllvm16): {missing}"
        )


def test_mitsuba_composites_as_many_hits_as_ours_and_has_gradients():
    """Against compositing in float64, written out: the nearest hits by the length at which a ray enters."""
    settings = PROTOCOL["peers"]["mitsuba"]
    scene = scenes.icosphere(
        PROTOCOL["scene"] | {"subdivisions": 2, "precision": 60.0, "image_size": [24, 24], "focal": 24.0}
    )
    render = mitsuba_or_skip(scene, settings)
    upstream = torch.rand(24, 24, 3, generator=torch.Generator().manual_seed(0)).double()

    def composite(means, features):
        v, u = torch.meshgrid(*[(torch.arange(24) + 0.5 - 12) / 24] * 2, indexing="ij")
        directions = torch.stack([u, v, torch.ones_like(u)], -1).view(-1, 3).double()
        directions = directions / directions.norm(dim=-1, keepdim=True)
        lengths = directions @ means.double().mT
        square = scene.precision * (means.double().square().sum(-1) - lengths**2)
        reach = -2 * math.log(settings["threshold"])
        entry = lengths - ((reach - square).clamp(min=0) / scene.precision).sqrt()
        entry, nearest = entry.where(square < reach, torch.inf).sort(-1)
        hit, nearest = entry[:, : settings["max_hits"]].isfinite(), nearest[:, : settings["max_hits"]]
        opacity = settings["opacity"] * torch.exp(-square.gather(1, nearest) / 2) * hit
        before = torch.cumprod(torch.cat([torch.ones(len(opacity), 1), 1 - opacity], -1), -1)[:, :-1]
        return ((opacity * before)[..., None] * features.double()[nearest]).sum(1).view(24, 24, 3), hit.sum().item()

    means, features = scene.means.clone().requires_grad_(), scene.features.clone().requires_grad_()
    wanted, hits = composite(means, features)
    expected = torch.autograd.grad((wanted * upstream).sum(), (means, features))
    image = render(means, features)
    # Hits closer than its step of 1e-4 are lost, and with them the few rays that differ.
    assert ((image - wanted).abs() < 1e-4).all(-1).float().mean() > 0.95
    found = torch.autograd.grad((image * upstream).sum(), (means, features))
    for name, a, b in zip(("means", "features"), found, expected, strict=True):
        assert torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0) > 0.98, name
        assert a.norm().item() == pytest.approx(b.norm().item(), rel=0.05), name
    _cpu.reset_counters(True)
    scenes.forward(scenes.ours(scene, PROTOCOL["ours"]), scene)()
    assert hits == pytest.approx(_cpu.counters()["hits"], rel=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through Linux's /proc")
def test_memory_grows_with_the_picture():
    small, large = memory.megabytes(500, (8, 8)), memory.megabytes(500, (512, 512))
    picture = 512 * 512 * 5 * 4 / 1e6  # features, opacity, depth
    assert small < large and large - small > picture


def test_renderer_results_come_out_of_a_small_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pytorch3d", reason="PyTorch3D is not installed (pip install --no-deps easypytorch3d)")
    from benchmarks import renderer

    before = torch.get_num_threads()
    parts = ["channels", "stages", "threads", "scale", "quadratures", "frames", "small"]
    monkeypatch.setattr(sys, "argv", ["renderer", "--quick", "--only", *parts, "--out", str(tmp_path)])
    try:
        renderer.main()
    finally:
        torch.set_num_threads(before)
    names = {path.stem for path in tmp_path.glob("*.json")}
    expected = {"channels", "compositing", "stages", "weights", "threads", "scale", "quadratures", "frames", "small"}
    assert names == {f"renderer-{name}" for name in expected}
    assert "renderer-scale.json" in capsys.readouterr().out and (tmp_path / "renderer-scale.png").is_file()
    weights = json.loads((tmp_path / "renderer-weights.json").read_text(encoding="utf-8"))
    assert weights["settings"]["overlapping_pairs"] > weights["settings"]["hits"] > 0
    frames = results.read("renderer-frames", tmp_path)
    assert frames["higher_is_better"] and frames["runs"]["ours"][0] > 1
    microseconds = results.read("renderer-small", tmp_path)["runs"]
    assert 1 < microseconds["fixed"][0] < microseconds["ours"][0] < 1e6
    for name in ("renderer-channels", "renderer-threads", "renderer-scale", "renderer-quadratures", "renderer-small"):
        filled = tables.fill(
            f"<!-- table: {name} -->\n<!-- end of table: {name} -->", lambda one: results.read(one, tmp_path)
        )
        assert filled.count("\n|") >= 4 - (name == "renderer-threads")


def test_shape_fits_come_out_of_a_small_run(tmp_path, monkeypatch, capsys):
    from benchmarks import shape_fits

    before = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["shape_fits", "--quick", "--out", str(tmp_path)])
    try:
        shape_fits.main()
    finally:
        torch.set_num_threads(before)
    assert "shape-fits-seconds-iou.json" in capsys.readouterr().out
    names = {f"shape-fits-{mode}-{metric}" for mode in ("steps", "seconds") for metric in ("iou", "alpha", "chamfer")}
    names |= {f"shape-fits-colours-{metric}" for metric in shape_fits.METRICS}
    assert {path.stem for path in tmp_path.glob("*.json")} == names
    for name in names:
        result = results.read(name, tmp_path)
        assert list(result["runs"]) == ["ours", "hermite-4", "segments-1", "segments-2"]
        for arm, row in result["settings"]["differences"].items():
            shift = sum(result["runs"][arm]) - sum(result["runs"]["ours"])
            assert row["low"] <= row["mean"] <= row["high"]
            assert row["mean"] == pytest.approx(shift / len(result["seeds"]))


def test_shape_fits_judge_a_mesh_by_itself():
    """The chamfer distance of a square to itself moved is by how far; the views hold what the mesh covers."""
    from benchmarks import shape_fits

    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    square = voge.io.Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    moved = square._replace(vertices=corners + torch.tensor([0.0, 0, 0.3]))
    assert shape_fits.chamfer(square, moved, 4000, 0) == pytest.approx(0.3, rel=0.01)
    trial = shape_fits.trial("capsule", shape_fits.quick(command.protocol(shape_fits.PROTOCOL)), 100)
    assert trial.seen.silhouettes.shape == (4, 24, 24) and trial.judges.silhouettes.shape == (2, 48, 48)
    for cameras, silhouettes, images in (trial.seen, trial.judges):
        middle = silhouettes[:, cameras.image_size[0] // 2, cameras.image_size[1] // 2]
        assert (middle == 1).all() and (images[silhouettes == 0] == 0).all()


def test_gpu_scene_is_as_crowded_as_the_protocol_says():
    p = command.protocol(gpu.PROTOCOL)
    for size in ((256, 256, 2562), (128, 192, 10000)):
        found = gpu.crowding(gpu.slab(p["scene"], *size))
        assert 40 <= found["hits"] <= 60 and found["overlaps"] <= 15


@pytest.mark.skipif(torch.cuda.is_available(), reason="no machine without a GPU: here benchmarks.gpu runs whole")
def test_gpu_benchmark_rehearses_on_the_cpu(tmp_path, monkeypatch, capsys):
    arguments = ["gpu", "--quick", "--only", "times", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    gpu.main()
    runs = results.read("gpu-times-none", tmp_path)["runs"]
    assert {"ours", "forward-hermite-1-32-32-100", "backward-segments-2-32-32-100"} <= set(runs)
    for wrong in ([*arguments[:2]], [arguments[0], *arguments[2:]]):
        monkeypatch.setattr(sys, "argv", wrong)
        with pytest.raises(SystemExit, match="no GPU here"):
            gpu.main()
