"""Paired measurements of time: the arms take turns, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping

import torch

Call = Callable[[], None]


def milliseconds(call: Call, repeats: int, budget: float) -> float:
    """The median of up to `repeats` calls, none begun later than `budget` seconds after the first."""
    values: list[float] = []
    begin = time.perf_counter()
    while len(values) < repeats and (not values or time.perf_counter() - begin < budget):
        start = time.perf_counter()
        call()
        values.append(1e3 * (time.perf_counter() - start))
    return statistics.median(values)


def alternate(
    calls: Mapping[str, Call],  # "ours" and the others
    threads: Mapping[str, int],
    rounds: int,
    repeats: int,
    budget: float,
    warm: Collection[str] = (),  # arms that have just been called
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Times A B A C A D ... `rounds` times, A being "ours" (its value of a round is the median over its turns).

    Returns the milliseconds and the seconds spent, arm -> one value a round. Every arm that is not warm is called once
    before.
    """
    others = [arm for arm in calls if arm != "ours"]
    for arm in calls:
        if arm not in warm:
            _turn(calls[arm], threads[arm], 1, 0.0)
    runs: dict[str, list[float]] = {arm: [] for arm in calls}
    seconds: dict[str, list[float]] = {arm: [] for arm in calls}
    for _ in range(rounds):
        turns: dict[str, list[tuple[float, float]]] = {arm: [] for arm in calls}
        for arm in [one for other in others for one in ("ours", other)] or ["ours"]:
            turns[arm].append(_turn(calls[arm], threads[arm], repeats, budget))
        for arm, values in turns.items():
            runs[arm].append(statistics.median(value for value, _ in values))
            seconds[arm].append(sum(spent for _, spent in values))
    return runs, seconds


def best_threads(call: Call, most: int) -> int:
    """1 or `most`, whichever is faster, for a peer that may do worse with more."""
    return min((1, most), key=lambda threads: _turn(call, threads, 3, 1.0)[0])


def _turn(call: Call, threads: int, repeats: int, budget: float) -> tuple[float, float]:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    return milliseconds(call, repeats, budget), time.perf_counter() - start
