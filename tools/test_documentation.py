"""Tests that the patched page renders, that its example runs, and that blurb accepts the entry.

The environment variable CPYTHON may name a directory with CPython's source, a checkout or a
distribution's source package.  Without it, the page consists of the lines that the patch quotes.
"""

import multiprocessing.pool
import pathlib
import re
import shutil
import sqlite3
import sys
import textwrap

import pytest
import stand_in
import test_upstream

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PAGE = pathlib.Path("Doc", "library", "multiprocessing.rst")
SOURCE = stand_in.MAIN
# The patch refers to this section.
GUIDELINES = """
.. _multiprocessing-programming:

Programming guidelines
----------------------
"""
NO_SOURCE = "CPYTHON names no directory with CPython's source"


def run(*command, cwd):
    done = test_upstream.run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def patch(directory, name):
    run("git", "init", "-q", cwd=directory)
    run("git", "apply", REPOSITORY / f"{name}.patch", cwd=directory)


@pytest.fixture(params=["quoted", "real"])
def page(request, tmp_path):
    """Return the page before it is patched, in a directory of its own."""
    page = tmp_path / PAGE
    page.parent.mkdir(parents=True)
    if request.param == "quoted":
        text = stand_in.quoted(REPOSITORY / f"{PAGE}.patch") + GUIDELINES
        page.write_text(text, encoding="utf-8")
    elif SOURCE:
        if (SOURCE / "Doc" / "includes").is_dir():
            shutil.copytree(str(SOURCE / "Doc" / "includes"), str(tmp_path / "Doc" / "includes"))
        shutil.copyfile(str(SOURCE / PAGE), str(page))
    else:
        pytest.skip(NO_SOURCE)
    return page


def render(page):
    """Return the page as text, and the warnings of Sphinx without their line numbers."""
    (page.parent / "conf.py").write_text("root_doc = 'multiprocessing'\n")
    out = page.parent / "out"
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-b", "text", page.parent, out]
    done = test_upstream.run(*command, cwd=page.parent)
    assert done.returncode == 0, done.stderr
    text = (out / "multiprocessing.txt").read_text(encoding="utf-8")
    return text, re.findall(r"^.*?multiprocessing\.rst:\d+: (.*)", done.stderr, re.MULTILINE)


def test_page_renders_without_new_warnings(page, tmp_path):
    pytest.importorskip("sphinx")
    before, warnings = render(page)
    assert "expect_initret" not in before
    patch(tmp_path, PAGE)
    text, warnings_after = render(page)
    assert warnings_after == warnings
    for signature in (
        "class Pool(processes=None, initializer=None, initargs=(), maxtasksperchild=None, "
        "context=None, *, expect_initret=False)",
        "class ThreadPool(processes=None, initializer=None, initargs=(), *, expect_initret=False)",
    ):
        assert re.search(r"class (multiprocessing\.pool\.)?" + re.escape(signature[6:]), text)
    assert text.count("Changed in version next: Added the *expect_initret* parameter.") == 2


@pytest.mark.skipif(
    "expect_initret" not in (multiprocessing.pool.Pool.__init__.__kwdefaults__ or ()),
    reason="this interpreter is not patched",
)
def test_example_runs(page, tmp_path):
    before = page.read_text(encoding="utf-8")
    patch(tmp_path, PAGE)
    blocks = re.findall(r"::\n\n((?:      .*\n|\n)+)", page.read_text(encoding="utf-8"))
    (block,) = [block for block in blocks if block not in before]
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(block))
    database = sqlite3.connect(str(tmp_path / "users.db"))
    database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name)")
    names = [("Ada",), ("Grace",), ("Guido",)]
    with database:
        database.executemany("INSERT INTO users (name) VALUES (?)", names)
    database.close()
    assert run(sys.executable, program, cwd=tmp_path) == "['Ada', 'Grace', 'Guido']\n"


@pytest.mark.skipif(not SOURCE, reason=NO_SOURCE)
def test_patches_apply(tmp_path):
    applied = []
    for path in (REPOSITORY / "Doc").rglob("*.patch"):
        name = path.relative_to(REPOSITORY).with_suffix("")
        if (SOURCE / name).exists():  # Only the main branch has What's New of 3.16.
            (tmp_path / name).parent.mkdir(parents=True)
            shutil.copyfile(str(SOURCE / name), str(tmp_path / name))
            patch(tmp_path, name)
            applied.append(name.name)
    assert "multiprocessing.rst" in applied


def test_line_length():
    files = [
        path for top in ("Doc", "Misc") for path in (REPOSITORY / top).rglob("*") if path.is_file()
    ]
    assert len(files) == 3
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            assert len(line.lstrip("+")) <= 80 or line.startswith(("-", "@@", " ")), line


def test_blurb_accepts_the_entry(tmp_path):
    pytest.importorskip("blurb")
    # blurb recognizes a CPython checkout by these files.
    (tmp_path / "README.rst").write_text("This is Python version 3.16.0 alpha 0\n")
    (tmp_path / "LICENSE").write_text("A. HISTORY OF THE SOFTWARE\n")
    for name in "Include/Python.h", "Python/ceval.c":
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    shutil.copytree(str(REPOSITORY / "Misc"), str(tmp_path / "Misc"))
    run(sys.executable, "-m", "blurb", "merge", "NEWS", cwd=tmp_path)
    news = (tmp_path / "NEWS").read_text(encoding="utf-8")
    assert "- gh-79018: Add the *expect_initret* parameter" in news
