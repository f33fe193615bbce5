"""The emulator of CUDA threads: right kernels run right in every mode and order, and each planted mistake is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cuda_emulation import build
from tests.cuda_emulation.launcher import EmulatedLauncher, EmulationError

BLOCKS, THREADS = 2, 64

# A kernel of planted.cu: what the race detector says, and if it is found without it.
MISTAKES = {
    "past_the_end": ("outside of every argument.*planted.cu", False),
    "past_shared": ("outside of every argument.*planted.cu", False),
    "not_in_mask": ("not in its own mask.*planted.cu", True),
    "other_masks": ("disagree on the mask.*planted.cu", True),
    "source_not_in_mask": ("reads a lane outside of its mask.*planted.cu", True),
    "other_places": ("meet at different places.*warp.h", True),
    "early_return": ("__syncthreads after some threads have returned.*planted.cu", True),
    "early_return_in_warp": ("never arrive.*warp.h", True),
    "divergent_barrier": ("wait at different barriers.*planted.cu", True),
    "no_block_barrier": ("race: .*planted.cu|nobody wrote.*planted.cu", False),
    "warp_barrier_between_warps": ("race: .*planted.cu|nobody wrote.*planted.cu", False),
    "shuffle_for_barrier": ("race: read of what another thread wrote.*planted.cu", False),
    "half_a_warp_barrier": ("race: .*planted.cu|nobody wrote.*planted.cu", False),
    "overwritten": ("race: .*planted.cu", False),
    "plain_add": ("race: .*planted.cu", False),
    "between_blocks": ("race: .*planted.cu", False),
    "read_of_atomic": ("race: .*planted.cu", False),
    "unwritten": ("nobody wrote.*planted.cu", False),
    "too_much_shared": ("more shared memory than every card has", True),
    "no_dynamic_shared": ("outside of every argument.*planted.cu", False),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """A source tree whose only kernels are the planted ones."""
    csrc = tmp_path_factory.mktemp("planted") / "csrc"
    shutil.copytree(build.CSRC / "core", csrc / "core")
    (csrc / "cuda").mkdir()
    for header in (build.CSRC / "cuda").glob("*.h"):
        shutil.copy(header, csrc / "cuda")
    shutil.copy(build.HERE / "planted.cu", csrc / "cuda")
    return csrc


@pytest.mark.parametrize("mode", ["in_order", "shuffled", "race"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_right_kernels(planted, mode, kind):
    launcher = EmulatedLauncher(mode, 5, planted)
    x = torch.linspace(-1, 2, 3 * 128 - 5, dtype=torch.float32 if kind == "f32" else torch.float64)
    sums, positive = torch.full((3,), torch.nan, dtype=x.dtype), torch.zeros(1, dtype=torch.int32)
    launcher.launch(f"block_sum_{kind}", 3, 128, [x, len(x), sums, positive, 2.0], shared=128 * x.element_size())
    torch.testing.assert_close(sums, torch.stack([2 * part.sum() for part in x.split(128)]))
    assert positive.item() == (x > 0).sum()

    x = torch.arange(64, dtype=x.dtype)
    tickets = torch.empty(64, dtype=torch.int32)
    launcher.launch(f"orderly_{kind}", 1, 64, [x, tickets])
    assert x.tolist() == [15 + 14] * 63 + [64]
    assert sorted(tickets.tolist()) == list(range(64))


def test_shuffled_orders_differ_by_seed_only(planted):
    def tickets(mode, seed):
        x, order = torch.arange(64.0), torch.empty(64, dtype=torch.int32)
        EmulatedLauncher(mode, seed, planted).launch("orderly_f32", 1, 64, [x, order])
        return order.tolist()

    assert tickets("in_order", 0) == tickets("in_order", 1)
    assert tickets("shuffled", 0) == tickets("shuffled", 0)
    assert len({tuple(tickets("shuffled", seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("name", MISTAKES)
def test_planted_mistakes_are_found(planted, name):
    message, always = MISTAKES[name]
    for mode in ("in_order", "shuffled", "race") if always else ("race",):
        with pytest.raises(EmulationError, match=message):
            launch_mistake(EmulatedLauncher(mode, 0, planted), name)
    test_right_kernels(planted, "race", "f64")  # a launch that broke off leaves nothing behind


def launch_mistake(launcher, name):
    x, n = torch.zeros(BLOCKS * THREADS), torch.zeros(BLOCKS, dtype=torch.int32)
    launcher.launch(f"{name}_f32", BLOCKS, THREADS, [x, n])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("past_the_end", "heap-buffer-overflow"),
        ("past_shared", "index 64 out of bounds"),
        ("overflow", "signed integer overflow"),
    ],
)
def test_sanitizers(planted, name, message):
    code = f"""if True:
        from pathlib import Path
        from tests.cuda_emulation.launcher import EmulatedLauncher
        from tests.test_cuda_emulator import launch_mistake, test_right_kernels
        csrc = Path({str(planted)!r})
        test_right_kernels(csrc, "sanitize", "f32")
        print("right", flush=True)
        launch_mistake(EmulatedLauncher("sanitize", 0, csrc), {name!r})
    """
    environment = build.sanitizer_environment()
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=build.ROOT)
    assert run.stdout == "right\n", run.stderr
    assert run.returncode and message in run.stderr and "planted.cu" in run.stderr


@pytest.mark.parametrize("mode", ["race", "sanitize"])
def test_kernels_under_detectors(mode):
    """A few tests of the real kernels, which together launch all of them, once more under each detector."""
    tests = [
        "tree.py::test_searches_do_not_depend_on_the_schedule_and_stop_at_the_capacity",
        "tree.py::test_boxes_hold_their_children",
        "weights.py::test_slots_in_any_order_with_empty_ones_between",
        "fragments.py::test_products_equal_the_cpu",
        "fragments.py::test_equals_the_cpu[batches1-rays-rule1-world-4-dtype0]",
        "render.py::test_batches_of_everything",
        "render.py::test_equals_the_cpu[camera-9-options8-dtype0]",
    ]
    environment = build.sanitizer_environment() if mode == "sanitize" else {**os.environ, "VOGE_EMULATION_MODE": mode}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/test_cuda_{x}" for x in tests)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=build.ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"arguments": []}, TypeError, "takes 2 arguments"),
        ({"arguments": [torch.zeros(64, dtype=torch.float64), None]}, TypeError, "argument 0"),
        ({"arguments": [torch.zeros(64, 2)[:, 0], None]}, TypeError, "argument 0"),
        ({"arguments": [1.0, None]}, TypeError, "argument 0"),
        ({"kernel": "nothing_f32"}, KeyError, "no VOGE_KERNEL"),
        ({"threads": 96}, ValueError, "96 threads"),
        ({"grid": 0}, ValueError, "0 blocks"),
    ],
)
def test_launches_are_checked(planted, change, error, message):
    call = {"kernel": "orderly_f32", "grid": 1, "threads": 64, "arguments": [torch.zeros(64), None], **change}
    with pytest.raises(error, match=message):
        EmulatedLauncher("in_order", 0, planted).launch(**call)


def test_integers_are_checked(planted):
    launcher = EmulatedLauncher("in_order", 0, planted)
    x, sums, positive = torch.zeros(128), torch.zeros(1), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(TypeError, match="argument 1"):
        launcher.launch("block_sum_f32", 1, 128, [x, 2.5, sums, positive, 2.0], shared=512)
    with pytest.raises(OverflowError, match="argument 1"):
        launcher.launch("block_sum_f32", 1, 128, [x, 2**63, sums, positive, 2.0], shared=512)


def test_every_kernel_is_instantiated():
    """In both types, as the libraries export them."""
    kernels = build.kernels(build.CSRC)
    assert kernels
    for source in {source for source, _ in kernels.values()}:
        library = build.library(source)
        symbols = build.run(["nm", "-D", "--defined-only", str(library)])
        for name in (name for name, (where, _) in kernels.items() if where == source):
            assert f" emulate_voge_{name}_f32\n" in symbols and f" emulate_voge_{name}_f64\n" in symbols
