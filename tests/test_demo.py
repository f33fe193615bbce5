"""The demo's parts that need no download, and a few seconds on its real photographs where they are in the cache."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import voge

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is missing")

from examples.demo import boards, fetch, film, fitting, record, truth  # noqa: E402

K = np.array([[548.0, 0, 338.0], [0, 542.0, 234.0], [0, 0, 1]])


def pose() -> tuple[np.ndarray, np.ndarray]:
    return cv2.Rodrigues(np.array([2.1, 1.15, -0.45]))[0], np.array([10.0, 20.0, 560.0])


def cached(*packages: fetch.Package):
    for package in packages:
        if (fetch.cache() / package.name.replace("==", "-") / package.probe).exists():
            return fetch.cache() / package.name.replace("==", "-")
    pytest.skip(f"not in the cache: {' or '.join(package.name for package in packages)} (make demo fetches it)")


def test_truth_recovers_a_synthetic_pose():
    R, t = pose()
    corners = truth.project(film.CORNERS, R, t, K)
    expected, _ = cv2.projectPoints(film.CORNERS, cv2.Rodrigues(R)[0], t, K, None)
    np.testing.assert_allclose(corners, expected.reshape(-1, 2), atol=1e-9)
    found = truth.from_corners(film.CORNERS, corners, K, sigma=0.7)
    assert max(truth.errors(found.R, found.t, R, t)) < 1e-4
    assert found.pixels < 1e-4
    assert 0.1 < found.degrees < 3 and 0.1 < found.percent < 3
    half = truth.from_corners(film.CORNERS, corners, K, sigma=0.35)
    assert half.degrees == pytest.approx(found.degrees / 2, rel=0.2)


def test_errors_are_degrees_and_percent():
    R, t = pose()
    turned = cv2.Rodrigues(np.radians([0, 0, 30.0]))[0] @ R
    assert truth.errors(turned, 1.1 * t, R, t) == pytest.approx((30, 10), rel=1e-9)


@pytest.mark.parametrize("half_turn", [False, True])
def test_corners_of_a_board_come_in_the_order_of_its_colours(half_turn):
    image = np.full((480, 640), 128, np.uint8)
    board = cv2.resize((255 * boards.picture()).astype(np.uint8), None, fx=2, fy=2)
    image[80 : 80 + board.shape[0], 120 : 120 + board.shape[1]] = board
    expected = (boards.corner_points() + boards.centre())[:, :2] / boards.SQUARE - boards.PAPER[:2]
    expected = expected * 40 + (120 - 0.5, 80 - 0.5)
    if half_turn:
        image, expected = image[::-1, ::-1].copy(), (639, 479) - expected
    np.testing.assert_allclose(boards.find_corners(image), expected, atol=2.0)  # of 40 pixels a square


def test_textures_of_a_rendered_box():
    rng = np.random.default_rng(0)
    faces = [
        cv2.resize(rng.random((6, 6)).astype(np.float32), (96, 96), interpolation=cv2.INTER_CUBIC)[..., None]
        for _ in range(6)
    ]
    scene = film.model(faces, 6000)
    R, t = pose()
    drawn = voge.render(scene.gaussians, fitting.camera(R, t, K, (480, 640)), scene.features)
    grey = drawn.features[..., 0] / drawn.alpha.clamp(min=0.05)
    frame = (255 * grey.clamp(0, 1)).byte().numpy()
    known = truth.Truth(R, t, 0, 0, 0)
    fake = SimpleNamespace(
        K=K, truth=dict.fromkeys(film.MODEL_FRAMES, known), frame=lambda number: frame,
        features=lambda number: fitting.channels(frame / 255, film.WINDOW, film.FLOOR),
    )  # fmt: skip
    _, greys = film.textures(fake)
    seen = [i for i, (outward, _, _) in enumerate(film.FACES) if -(R @ outward) @ t / np.linalg.norm(t) > 0.35]
    assert len(seen) >= 2
    for i in seen:
        inner = slice(10, -10)
        assert np.abs(greys[i][inner, inner] - faces[i][inner, inner]).mean() < 0.05
        assert np.corrcoef(greys[i][inner, inner].ravel(), faces[i][inner, inner].ravel())[0, 1] > 0.9


def test_what_cannot_be_fetched_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VOGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.Unavailable, match=r"visp-images-data: apt-get is not on this machine"):
        fetch.fetch(fetch.FILM)
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(fetch.Unavailable, match="set VOGE_CACHE to another folder"):
        fetch.fetch(fetch.FILM)


def test_features_do_not_see_exposure():
    grey = np.random.default_rng(0).random((60, 80)).astype(np.float32)
    a, b = (fitting.channels(picture, 6.0, 1e-4) for picture in (grey, 0.5 * grey + 0.2))
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_wrong_starts_are_wrong():
    R, t = pose()
    for seed in range(20):
        degrees, percent = truth.errors(*fitting.wrong_start(R, t, seed, lateral=20, depth=0.1), R, t)
        assert 29.999 < degrees < 60.001 and percent < 12


def test_results_follow_the_schema(tmp_path):
    R, t = pose()
    known, camera = truth.Truth(R, t, 0.5, 0.4, 0.3), fitting.camera(R, t, K, (480, 640))
    case = fitting.Case("film", "frame 0", 0, (40.0, 5.0), (0.5, 0.2), (0.1, 0.1), 1.0, known, camera, None, None)
    paths = record.write([case], 1, tmp_path)
    assert [path.name for path in paths] == [f"demo-film-{metric}.json" for metric in ("degrees", "percent", "found")]
    assert [json.loads(path.read_text())["runs"]["ours"] for path in paths] == [[0.5], [0.2], [1.0]]
    assert case.numbers()["error_degrees"] == 0.5


def test_film_truth_is_consistent_and_the_fit_stays_at_it():
    """Independent of us: the box stands on one table, so its up axis is the same in all clicked frames."""
    movie = film.Film(cached(fetch.FILM))
    ups = np.array([known.R[:, 2] for known in movie.truth.values()])
    mean = ups.mean(0) / np.linalg.norm(ups.mean(0))
    assert np.degrees(np.arccos((ups @ mean).clip(-1, 1))).max() < 1.5
    assert max(truth.errors(*movie.shipped, movie.truth[0].R, movie.truth[0].t)) < 2
    scene, known = film.model(film.textures(movie)[0], 800), movie.truth[0]
    start = cv2.Rodrigues(np.radians([3.0, -4.0, 5.0]))[0] @ known.R
    found = voge.fit.pose(
        scene.gaussians, movie.features(0), fitting.camera(start, known.t, movie.K, (480, 640)), scene.features,
        stages=(fitting.Stage(64, 1, 12, 0.02), fitting.Stage(96, 1, 3, 0.005)), polish=3, threshold=0.05,
    )  # fmt: skip
    assert max(truth.errors(found.R, found.t, known.R, known.t)) < 2
    assert torch.isfinite(found.covariance).all()


@pytest.mark.parametrize("package", fetch.BOARDS, ids=lambda package: package.kind)
def test_board_truth_agrees_with_the_shipped_poses(package):
    photos = boards.Boards(cached(package))
    assert len(photos.names) == 13
    for i, name in enumerate(photos.names):
        assert photos.truth[name].pixels < 0.4
        assert max(photos.second_opinion(i)) < 1
