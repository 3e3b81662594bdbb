"""Tests that the code in the READMEs and the documentation runs, and prints what they show."""

import ast
import importlib.util
import multiprocessing
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest

TIMEOUT = 100  # seconds
# A shell may start background jobs with SIGINT ignored, which the programs would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
REPOSITORY = pathlib.Path(__file__).parent.parent
PAGES = [
    REPOSITORY / "README.rst",
    REPOSITORY / "backport" / "README.rst",
    *sorted((REPOSITORY / "backport" / "docs").glob("*.rst")),
]
BLOCK = re.compile(
    r"^\.\. code-block:: (python|text)\n(?:    :caption: (.+)\n)?\n((?:    .*\n|\n)+)",
    re.MULTILINE,
)
GUARD = 'if __name__ == "__main__":\n'
START_METHODS = multiprocessing.get_all_start_methods()


def blocks(page):
    """Yield the kind, the caption and the text of each block of a page."""
    for kind, caption, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield kind, caption, textwrap.dedent(text).strip() + "\n"


def files(page):
    """Return the text of each block that has a caption, by the caption, which is a file name."""
    return {caption: text for _, caption, text in blocks(page) if caption}


def programs():
    """Yield each Python block without a caption, and the text block after it: its output."""
    for page in PAGES:
        found = [*blocks(page), ("end", "", "")]
        for number, (block, following) in enumerate(zip(found, found[1:]), 1):
            kind, caption, program = block
            if kind == "python" and not caption:
                assert following[0] == "text", program
                name = f"{page.parent.name}-{page.stem}-{number}"
                yield pytest.param(files(page), program, following[2], id=name)


def imported(program):
    """Yield the names of the top-level modules and packages that a program imports."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0]


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("shown, program, output", list(programs()))
def test_program(tmp_path, shown, program, output, start_method):
    for name, text in shown.items():
        (tmp_path / name).write_text(text)
    for name in imported(program):
        if name + ".py" not in shown and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    set_method = f'__import__("multiprocessing").set_start_method("{start_method}")\n'
    if GUARD in program:
        (tmp_path / "program.py").write_text(program.replace(GUARD, f"{GUARD}    {set_method}"))
        arguments = ["program.py"]
    else:
        # Run a program without a guard as if it were typed into an interpreter, without a file.
        arguments = ["-c", set_method + program]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output, done.stderr


@pytest.mark.parametrize(
    "page, name", [(page, name) for page in PAGES for name in files(page) if name[:5] == "test_"]
)
def test_shown_test(tmp_path, page, name):
    (tmp_path / name).write_text(files(page)[name])
    command = [sys.executable, "-m", "pytest", "-q", name]
    subprocess.run(command, cwd=str(tmp_path), check=True, timeout=TIMEOUT)


def test_readmes_are_short():
    for page in PAGES[:2]:
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 150
        assert len(text.split()) <= 1000
