"""The command line: what each command writes, and that a user's mistake ends in one line and exit code 2."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import voge
from voge import cli, io, pictures
from voge.fit.rigid import rotation_angle

Image = pytest.importorskip("PIL.Image", reason="the commands read and write pictures: pip install 'voge[io]'")
SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
COLORS = ((1, 0.2, 0.1), (0.1, 0.8, 0.2), (0.1, 0.3, 1), (1, 0.9, 0.1), (0.8, 0.2, 0.9), (0.1, 0.9, 0.9))
FOCAL, SIZE = 90.0, (72, 96)
K = f"{FOCAL},{FOCAL},{SIZE[1] / 2},{SIZE[0] / 2}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a coloured box, its outline alone, a photo of it with a mask, and views of it."""
    folder = tmp_path_factory.mktemp("made")
    corners = torch.tensor([[x, y, z] for x in (-0.6, 0.6) for y in (-0.35, 0.35) for z in (-0.45, 0.45)])
    vertices = corners[torch.tensor(SIDES).flatten()]
    faces = torch.tensor([[4 * i + j for j in face] for i in range(6) for face in ((0, 1, 2), (0, 2, 3))])
    colors = torch.tensor(COLORS, dtype=torch.float32).repeat_interleave(4, 0)
    io.save(folder / "box.ply", io.Mesh(vertices, faces, colors))
    io.save(folder / "plain.off", io.Mesh(vertices, faces))
    gaussians, features, _ = cli.colored(io.load(folder / "box.ply"), 500)
    drawn = voge.render(gaussians, true_camera(), features, background=torch.full((3,), 0.5))
    pictures.write(folder / "photo.png", drawn.features)
    pictures.write(folder / "mask.png", (drawn.alpha > 0.5).float()[..., None].expand(-1, -1, 3))
    frames = []
    (folder / "views").mkdir()
    for i in range(6):
        camera = cli.orbit(torch.zeros(3), 60.0 * i, 30.0 if i % 2 else -20.0, 4.0, FOCAL, SIZE)
        view = voge.render(gaussians, camera, features)
        alpha = view.alpha.clamp(max=1)[..., None]
        pictures.write(folder / "views" / f"{i}.png", torch.cat([view.features / alpha.clamp(min=1e-6), alpha], -1))
        matrix = torch.eye(4)
        matrix[:3, :3], matrix[:3, 3] = camera.R.mT * torch.tensor([1, -1, -1]), camera.centers()
        frames.append({"file_path": f"./{i}", "transform_matrix": matrix.tolist()})
    (folder / "views" / "transforms.json").write_text(json.dumps({"fl_x": FOCAL, "frames": frames}))
    return folder


def true_camera() -> voge.Cameras:
    return cli.orbit(torch.zeros(3), 35.0, 25.0, 3.0, FOCAL, SIZE)


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert run(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("voge: error: "), lines
    return lines[0]


def test_info(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info") == 0
    said = capsys.readouterr().out
    assert voge.__version__ in said and torch.__version__ in said and "baseline" in said and "threads" in said
    assert run("info", made / "box.ply") == 0
    said = capsys.readouterr().out
    assert "24 vertices, 12 faces, vertex colours" in said and "x -0.6 to 0.6, y -0.35 to 0.35" in said


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("--version")
    assert stopped.value.code == 0 and capsys.readouterr().out.strip() == f"voge {voge.__version__}"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".ply"])
def test_convert_surface(made: Path, tmp_path: Path, suffix: str) -> None:
    assert run("convert", made / "box.ply", tmp_path / f"box{suffix}", "--num", 300) == 0
    gaussians, features, _ = io.load(tmp_path / f"box{suffix}")
    assert abs(gaussians.num - 300) < 30 and features.shape == (gaussians.num, 3)
    right = gaussians.means[:, 0] > 0.55  # of one colour in the middle of the face
    middle = right & (gaussians.means[:, 1:].abs().amax(-1) < 0.2)
    torch.testing.assert_close(
        features[middle], torch.tensor(COLORS[1]).expand(int(middle.sum()), 3), atol=0.02, rtol=0
    )


def test_convert_vertex(made: Path, tmp_path: Path) -> None:
    law = ("--law", "vertex", "--percentage", 0.7)
    assert run("convert", made / "box.ply", tmp_path / "box.npz", *law) == 0
    scene, mesh = io.load(tmp_path / "box.npz"), io.load(made / "box.ply")
    expected = voge.convert.from_mesh(mesh, percentage=0.7)
    torch.testing.assert_close(scene.gaussians.precisions, expected.precisions)
    torch.testing.assert_close(scene.features, mesh.colors)


def test_render_frames_the_object(made: Path, tmp_path: Path) -> None:
    for i, words in enumerate(([], ["--elevation", -90], ["--eye", "-2,1,3"], ["--azimuth", -120, "--focal", 60])):
        assert run("render", made / "box.ply", tmp_path / f"{i}.png", "--size", "60x80", "--num", 500, *words) == 0
        picture = np.asarray(Image.open(tmp_path / f"{i}.png")).astype(float)
        assert picture.shape == (60, 80, 3)
        drawn = picture.min(-1) < 200
        border = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
        assert 0.1 < drawn.mean() < 0.8 and not border.any()


def test_render_transparent(made: Path, tmp_path: Path) -> None:
    options = ("--size", "40x40", "--background", "transparent", "--num", 300)
    assert run("render", made / "plain.off", tmp_path / "a.png", *options) == 0
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (40, 40, 4) and picture[0, 0, 3] == 0 and picture[20, 20, 3] > 200


def test_fit_pose(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = made / "box.ply", made / "photo.png"
    out = tmp_path / "new" / "out"
    options = ("--intrinsics", K, "--start", "20,15,2.7", "--num", 300, "--out", out)
    assert run("fit-pose", *files, *options) == 0
    pose = json.loads((out / "pose.json").read_text())
    truth = true_camera()
    assert math.degrees(rotation_angle(torch.tensor(pose["R"]), truth.R)) < 2
    assert (torch.tensor(pose["t"]) - truth.t).norm() < 0.03 * truth.t.norm()
    assert pose["image_size"] == list(SIZE) and pose["K"][0][0] == FOCAL and not pose["interrupted"]
    assert np.array(pose["covariance"]).shape == (6, 6) and pose["seconds"] > 0 and pose["loss"] > 0
    overlay = np.asarray(Image.open(out / "overlay.png"))
    assert overlay.shape == (*SIZE, 3)
    assert (np.abs(overlay - 255 * np.array(pictures.OUTLINE)).max(-1) < 2).sum() > 50
    film = Image.open(out / "fit.gif")
    assert film.format == "GIF" and film.n_frames > 10
    assert sorted(path.name for path in out.iterdir()) == ["fit.gif", "overlay.png", "pose.json"]
    # what was written is a start and intrinsics, for a picture of the same size only
    pictures.write(tmp_path / "small.png", torch.rand(50, 60, 3))
    words = error_of(capsys, "fit-pose", files[0], tmp_path / "small.png", "--intrinsics", out / "pose.json")
    assert "image_size" in words and "[72, 96]" in words and "[50, 60]" in words


def test_fit_pose_by_the_outline_interrupted(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    @contextmanager
    def impatient():
        def progress(name: str, step: int, steps: int, loss: float) -> None:
            calls.append(loss)
            if len(calls) == 5:
                raise KeyboardInterrupt

        yield progress

    monkeypatch.setattr(cli, "_progress", impatient)
    options = ("--mask", made / "mask.png", "--intrinsics", K, "--start", "20,15,2.7", "--num", 200, "--out", tmp_path)
    assert run("fit-pose", made / "plain.off", made / "photo.png", *options) == 0
    assert len(calls) == 5 and "interrupted" in capsys.readouterr().out
    assert json.loads((tmp_path / "pose.json").read_text())["interrupted"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.gif", "overlay.png", "pose.json"]


def test_fit_shape(made: Path, tmp_path: Path) -> None:
    options = ("--size", 48, "--steps", 60, "--level", 2)
    assert run("fit-shape", made / "views", "--out", tmp_path / "box.npz", *options) == 0
    gaussians, features, _ = io.load(tmp_path / "box.npz")
    assert gaussians.num == 162 and features.shape == (162, 3)
    torch.testing.assert_close(gaussians.means.amax(0), torch.tensor([0.6, 0.35, 0.45]), atol=0.12, rtol=0)
    assert run("fit-shape", made / "views", "--out", tmp_path / "box.off", "--steps", 1, "--level", 1) == 0
    assert len(io.load(tmp_path / "box.off").faces) == 80


def test_mistakes(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box, photo = made / "box.ply", made / "photo.png"
    (tmp_path / "broken.ply").write_bytes((box).read_bytes()[:300])
    (tmp_path / "broken.obj").write_text("v 0 0 nan\nf 1 1 1\n")
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:200])
    (tmp_path / "K.json").write_text("{")
    (tmp_path / "K2.json").write_text('{"K": [[1, 2], [3, 4]]}')
    (tmp_path / "size.json").write_text('{"fx": 90, "fy": 90, "cx": 48, "cy": 36, "image_size": 5}')
    eye, away = [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 3]
    for name, R, t in (
        ("words", eye, "abc"),
        ("turned", [[2, 0, 0], *eye[1:]], away),
        ("behind", eye, [0, 0, -3]),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"R": R, "t": t}))
    pictures.write(tmp_path / "small.png", torch.rand(50, 60, 3))
    under_a_file = photo / "out"
    fit = ("fit-pose", "--num", 100, box, photo)
    for words, expected in (
        (("info", "nowhere.obj"), "nowhere.obj is not a file"),
        (("info", tmp_path / "broken.ply"), "broken.ply"),
        (("info", tmp_path / "broken.obj"), "broken.obj"),
        (("view", box), "later version"),
        (("render", box, under_a_file / "x.png"), "cannot write to folder"),
        (("render", box, tmp_path / "x.what"), "out: expected the suffix of a picture, such as .png, got '.what'"),
        (("render", box, tmp_path / "x"), "out: expected the suffix of a picture"),
        (("render", box, tmp_path / "x.jpg", "--background", "transparent"), "out: expected a picture that can be"),
        (("render", box, tmp_path / "x.png", "--num", 0), "num"),
        (("convert", box, tmp_path / "x.obj"), "obj"),
        (("convert", box, tmp_path / "x.npz", "--law", "vertex", "--percentage", 2), "percentage"),
        (("fit-pose", box, "nowhere.png"), "nowhere.png is not a file"),
        (("fit-pose", box, tmp_path / "broken.png"), "broken.png"),
        (("fit-pose", made / "plain.off", photo, "--intrinsics", K), "no colours"),
        ((*fit, "--mask", tmp_path / "small.png"), "mask: expected the size of the image, 96 x 72 pixels"),
        ((*fit, "--intrinsics", "1,2,3"), "intrinsics: expected 4 numbers"),
        ((*fit, "--intrinsics", "nan,90,48,36"), "intrinsics: expected 4 numbers"),
        ((*fit, "--intrinsics", "-90,90,48,36"), "intrinsics: K: expected focal lengths above zero, got -90.0"),
        ((*fit, "--intrinsics", tmp_path / "size.json"), "is for an image_size [H, W] of 5, got [72, 96]"),
        ((*fit, "--intrinsics", "900,900,640,360"), "principal point (640.0, 360.0) lies outside the 96 x 72 image"),
        ((*fit, "--intrinsics", tmp_path / "K.json"), "K.json"),
        ((*fit, "--intrinsics", tmp_path / "K2.json"), "3 x 3"),
        ((*fit, "--intrinsics", K, "--start", tmp_path / "K2.json"), "expected an object with R and t"),
        ((*fit, "--intrinsics", K, "--start", tmp_path / "words.json"), "start: "),
        ((*fit, "--intrinsics", K, "--start", tmp_path / "turned.json"), "turned.json: R: expected a rotation"),
        ((*fit, "--intrinsics", K, "--start", tmp_path / "behind.json"), "in front of the camera, got depth -3"),
        ((*fit, "--intrinsics", K, "--start", "1,2"), "start: expected 3 numbers"),
        ((*fit, "--intrinsics", K, "--start", "1,2,-3"), "start: expected a distance above 0, got -3.0"),
        ((*fit, "--intrinsics", K, "--out", under_a_file), "cannot write to folder"),
        (("fit-shape", tmp_path, "--out", tmp_path / "x.npz"), "transforms.json"),
        (("fit-shape", made / "nowhere", "--out", tmp_path / "x.npz"), "is not a folder"),
        (("fit-shape", made / "views", "--out", tmp_path / "x.what"), "what"),
        (("fit-shape", made / "views", "--out", under_a_file / "x.npz"), "cannot write to folder"),
    ):
        assert expected in error_of(capsys, *words), words
    assert not list(tmp_path.glob("x.*")) and not list(tmp_path.glob(".*"))


def test_views_that_do_not_fit(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = tmp_path / "views"
    shutil.copytree(made / "views", views)
    command = ("fit-shape", views, "--out", tmp_path / "x.npz")
    pictures.write(views / "3.png", torch.rand(50, 60, 4))
    assert "expected 96 x 72 pixels as its camera, got 60 x 50" in error_of(capsys, *command)
    pictures.write(views / "3.png", torch.rand(*SIZE, 3))
    assert "alpha channel" in error_of(capsys, *command)
    (views / "3.png").unlink()
    assert "named in transforms.json, is not a file" in error_of(capsys, *command)


def test_missing_library_is_named(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    assert "pip install 'voge[io]'" in error_of(capsys, "render", made / "box.ply", tmp_path / "x.png", "--num", 100)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "COMMAND"),
        ("nonsense", "nonsense"),
        ("render a b --size 8", "--size: expected HxW such as 480x640, sides of 1 to 16384 pixels, got '8'"),
        ("render a b --size 0x8", "got '0x8'"),
        ("render a b --size 99999999x99999999", "got '99999999x99999999'"),
        ("render a b --eye 1,2", "--eye: expected 3 numbers"),
        ("render a b --focal -1", "--focal: expected a finite number above 0, got '-1'"),
        ("render a b --focal inf", "--focal: expected a finite number above 0, got 'inf'"),
        ("render a b --distance 0", "--distance: expected a finite number above 0, got '0'"),
        ("render a b --azimuth nan", "--azimuth: expected a finite number, got 'nan'"),
        ("render a b --background pink", "or three numbers r,g,b in 0..1, got 'pink'"),
        ("render a b --background 3,-1,0", "or three numbers r,g,b in 0..1, got '3,-1,0'"),
        ("fit-pose a b --spread 400", "--spread: expected degrees from 0 to 180, got '400'"),
        ("fit-pose a b --lighting odd", "--lighting: invalid choice: 'odd'"),
    ],
)
def test_words_that_argparse_refuses(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*words.split())
    assert stopped.value.code == 2 and message in capsys.readouterr().err
