"""Settings shared by all tests."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: the test processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# The same examples in every run, and no time limit an example: other processes may hold the cores.
settings.register_profile("voge", deadline=None, derandomize=True, database=None)
settings.load_profile("voge")
