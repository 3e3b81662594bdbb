"""What lands in Doc/ and Misc/: it renders, its examples run, and blurb takes it.

Where the environment variable CPYTHON names a folder with CPython's source, a
checkout or what a distribution builds its package of, its pages are patched and
rendered too.  Otherwise there are only those made of what the patches quote.
"""

import multiprocessing.pool
import os
import pathlib
import re
import shutil
import sys
import textwrap

import pytest
import stand_in
import test_upstream

HERE = pathlib.Path(__file__).resolve().parent.parent
PAGE = pathlib.Path("Doc", "library", "multiprocessing.rst")
SOURCE = os.environ.get("CPYTHON")


def run(*command, cwd):
    done = test_upstream.run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def patch(folder, name):
    run("git", "init", "-q", cwd=folder)
    run("git", "apply", HERE / f"{name}.patch", cwd=folder)


@pytest.fixture(params=["quoted", "real"])
def page(request, tmp_path):
    """The page before the patch of it, in a folder of its own."""
    page = tmp_path / PAGE
    page.parent.mkdir(parents=True)
    if request.param == "quoted":
        page.write_text(stand_in.quoted(HERE / f"{PAGE}.patch"), encoding="utf-8")
    elif SOURCE:
        shutil.copytree(
            str(pathlib.Path(SOURCE, "Doc", "includes")), str(tmp_path / "Doc/includes")
        )
        shutil.copy(str(pathlib.Path(SOURCE, PAGE)), str(page))
    else:
        pytest.skip("CPYTHON names no source of CPython")
    return page


def render(page):
    """Return the page as text, and what Sphinx warns of, without the lines' numbers."""
    (page.parent / "conf.py").write_text("root_doc = 'multiprocessing'\n")
    out = page.parent / "out"
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-b", "text", page.parent, out]
    done = test_upstream.run(*command, cwd=page.parent)
    assert done.returncode == 0, done.stderr
    text = (out / "multiprocessing.txt").read_text(encoding="utf-8")
    return text, re.findall(r"^.*?multiprocessing\.rst:\d+: (.*)", done.stderr, re.MULTILINE)


def test_it_renders_without_new_warnings(page, tmp_path):
    pytest.importorskip("sphinx")
    before, warned = render(page)
    assert "expect_initret" not in before
    patch(tmp_path, PAGE)
    text, warned_now = render(page)
    assert warned_now == warned
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
def test_the_example_runs(page, tmp_path):
    stock = page.read_text(encoding="utf-8")
    patch(tmp_path, PAGE)
    blocks = re.findall(r"::\n\n((?:      .*\n|\n)+)", page.read_text(encoding="utf-8"))
    (block,) = [block for block in blocks if block not in stock]
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(block))
    (promised,) = re.findall('# prints "(.*)"', block)
    assert run(sys.executable, program, cwd=tmp_path) == promised + "\n"


@pytest.mark.skipif(not SOURCE, reason="CPYTHON names no source of CPython")
def test_the_patches_apply(tmp_path):
    applied = []
    for folder in "Doc", "Misc":
        for path in (HERE / folder).rglob("*.patch"):
            name = path.relative_to(HERE).with_suffix("")
            if pathlib.Path(SOURCE, name).exists():  # What's New is that of main alone
                (tmp_path / name).parent.mkdir(parents=True)
                shutil.copy(str(pathlib.Path(SOURCE, name)), str(tmp_path / name))
                patch(tmp_path, name)
                applied.append(name.name)
    assert {"multiprocessing.rst", "ACKS"} <= set(applied)


def test_the_form_of_what_lands():
    files = [path for top in ("Doc", "Misc") for path in (HERE / top).rglob("*") if path.is_file()]
    assert len(files) == 4
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            assert len(line.lstrip("+")) <= 80 or line.startswith(("-", "@@", " ")), line
    # Sorted by last names, roughly.
    names = [
        line.split()[-1] for line in (HERE / "Misc/ACKS.patch").read_text("utf-8").splitlines()
    ]
    assert names[4:] == sorted(names[4:])


def test_blurb_takes_the_news(tmp_path):
    pytest.importorskip("blurb")
    # By these blurb knows a CPython checkout.
    (tmp_path / "README.rst").write_text("This is Python version 3.16.0 alpha 0\n")
    (tmp_path / "LICENSE").write_text("A. HISTORY OF THE SOFTWARE\n")
    for name in "Include/Python.h", "Python/ceval.c":
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    shutil.copytree(str(HERE / "Misc"), str(tmp_path / "Misc"))
    run(sys.executable, "-m", "blurb", "merge", "NEWS", cwd=tmp_path)
    news = (tmp_path / "NEWS").read_text(encoding="utf-8")
    assert "- gh-79018: Add the keyword-only parameter *expect_initret*" in news
