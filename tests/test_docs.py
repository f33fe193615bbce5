"""The documentation: its code runs and prints what it says, its links and pictures exist."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
OUTPUT = "<!-- output -->"  # before a block that holds what the Python before it prints
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def read(page: Path) -> str:
    assert page.is_file(), f"{page.name} does not exist"
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    return page.stem


@pytest.fixture
def _as_found():
    """Torch's settings as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.mark.parametrize("page", PAGES, ids=name)
@pytest.mark.usefixtures("_as_found")
def test_code_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(page)])
    text = read(page)
    namespace, printed, ran = {"__name__": "__page__"}, "", 0
    for block in BLOCK.finditer(text):
        line = text[: block.start("body")].count("\n")
        if block["before"].strip() == OUTPUT:
            assert printed == block["body"], f"{page.name}, line {line}: the code before prints\n{printed}"
        elif block["language"] == "python" and not NOT_RUN.fullmatch(block["before"].strip()):
            code = compile("\n" * line + block["body"], str(page), "exec")  # line numbers of the page in tracebacks
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, namespace)
            printed, ran = out.getvalue(), ran + 1
    assert ran == text.count("\n```python") - len(NOT_RUN.findall(text)), "a block of Python was not recognised"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_exist(page):
    for target in LINK.findall(re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)):
        path = target.split("#")[0]
        if path and not re.match(r"[a-z]+:", path):
            assert (page.parent / path).exists(), f"{page.name} links to {target}, which does not exist"


def test_pictures_of_the_pages_stand_beside_their_command():
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = read(page)
        for picture in re.findall(r"!\[[^\]]*\]\(img/([\w-]+)\.png\)", text):
            commands = f"python docs/pictures.py {picture}", "python -m benchmarks."
            assert any(command in text for command in commands), f"{page.name} shows {picture} without its command"
