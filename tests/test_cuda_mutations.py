"""Every planted mistake in the CUDA kernels is found by the test that is named as its catcher."""

import pytest

from tests.cuda_emulation.mutations import MUTATIONS, TABLE, mutate, run_catcher, table


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}-{m.name.replace(' ', '-')}")
def test_mistakes_are_found(mutation, tmp_path):
    mutate(mutation, tmp_path / "csrc")
    outcome = run_catcher(mutation, tmp_path / "csrc")
    assert outcome.caught, outcome.output


def test_the_table_lists_them_all():
    assert len(MUTATIONS) >= 25
    assert TABLE.read_text() == table()
