"""What lands in Doc/ and Misc/: it renders, its examples run, and blurb takes it."""

import multiprocessing.pool
import pathlib
import re
import shutil
import sys
import textwrap

import pytest
import stand_in
import test_upstream

HERE = pathlib.Path(__file__).resolve().parent.parent
PATCH = HERE / "Doc" / "library" / "multiprocessing.rst.patch"


def run(*command, cwd):
    done = test_upstream.run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def page(tmp_path):
    """The page with the patch applied, in a folder of its own."""
    page = tmp_path / "Doc" / "library" / "multiprocessing.rst"
    page.parent.mkdir(parents=True)
    page.write_text(stand_in.quoted_page(), encoding="utf-8")
    run("git", "init", "-q", cwd=tmp_path)
    run("git", "apply", PATCH, cwd=tmp_path)
    return page


def test_it_renders_without_warnings(page):
    pytest.importorskip("sphinx")
    (page.parent / "conf.py").write_text("root_doc = 'multiprocessing'\n")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "-b", "text"]
    run(*command, page.parent, page.parent / "out", cwd=page.parent)
    text = (page.parent / "out" / "multiprocessing.txt").read_text(encoding="utf-8")
    for signature in (
        "class Pool(processes=None, initializer=None, initargs=(), maxtasksperchild=None, "
        "context=None, *, expect_initret=False)",
        "class ThreadPool(processes=None, initializer=None, initargs=(), *, expect_initret=False)",
    ):
        assert signature in text
    assert text.count("Changed in version next: Added the *expect_initret* parameter.") == 2


@pytest.mark.skipif(sys.version_info < (3, 10), reason="an example calls int.bit_count()")
@pytest.mark.skipif(
    "expect_initret" not in (multiprocessing.pool.Pool.__init__.__kwdefaults__ or ()),
    reason="this interpreter is not patched",
)
def test_the_examples_run(page, tmp_path):
    blocks = re.findall(r"::\n\n((?:      .*\n|\n)+)", page.read_text(encoding="utf-8"))
    assert len(blocks) == 2
    for block in blocks:
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(block))
        (promised,) = re.findall('# prints "(.*)"', block)
        assert run(sys.executable, program, cwd=tmp_path) == promised + "\n"


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
