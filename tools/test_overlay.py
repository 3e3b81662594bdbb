"""tools/overlay.py: a patched copy, or a clear word why not."""

import inspect
import multiprocessing.pool
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

TOOLS = pathlib.Path(__file__).parent
PATCHES = TOOLS.parent / "Lib" / "multiprocessing"


def overlay(dest, tools=TOOLS, **env):
    done = subprocess.run(
        [sys.executable, str(tools / "overlay.py"), str(dest)],
        cwd=str(dest.parent),
        env=dict(os.environ, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_overlay_is_stock_but_for_the_patch(tmp_path):
    dest = tmp_path / "new" / "folder"
    (tmp_path / "new").mkdir()
    assert overlay(dest) == (0, "")
    assert os.listdir(str(dest)) == ["multiprocessing"]
    stock = pathlib.Path(os.__file__).parent / "multiprocessing"
    names = {path.relative_to(stock) for path in stock.rglob("*.py")}
    assert {path.relative_to(dest / "multiprocessing") for path in dest.rglob("*.py")} == names
    changed = {
        name
        for name in names
        if (dest / "multiprocessing" / name).read_text(encoding="utf-8")
        != (stock / name).read_text(encoding="utf-8")
    }
    patched = {path.relative_to(PATCHES).with_suffix("") for path in PATCHES.rglob("*.patch")}
    assert changed == patched


@pytest.mark.parametrize("around", ["none", "repository", "work tree"])
def test_a_repository_around_it_makes_no_difference(tmp_path, around):
    env = {}
    if around != "none":
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    if around == "work tree":
        env = {"GIT_DIR": str(tmp_path / ".git"), "GIT_WORK_TREE": str(tmp_path)}
    assert overlay(tmp_path / "dest", TMPDIR=str(tmp_path), **env) == (0, "")
    assert "expect_initret" in (tmp_path / "dest/multiprocessing/pool.py").read_text()


def test_a_hunk_that_does_not_apply(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("overlay.py", "git_environment.py"):
        shutil.copy(str(TOOLS / name), str(tools))
    shutil.copytree(str(PATCHES), str(tmp_path / "Lib" / "multiprocessing"))
    patch = tmp_path / "Lib" / "multiprocessing" / "pool.py.patch"
    patch.write_text(patch.read_text().replace(" job_counter = ", " job_counter_of_old = "))
    code, message = overlay(tmp_path / "dest", tools)
    assert code == 1
    assert "pool.py.patch does not apply" in message and "pool.py:" in message
    assert not (tmp_path / "dest").exists()


def test_dest_has_one_already(tmp_path):
    dest = tmp_path / "dest"
    assert overlay(dest) == (0, "")
    code, message = overlay(dest)
    assert code == 1 and "exists already" in message


def test_no_git(tmp_path):
    code, message = overlay(tmp_path / "dest", PATH=str(tmp_path))
    assert code == 1 and "git is needed" in message
    assert not (tmp_path / "dest").exists()


def test_an_old_python(tmp_path):
    program = (
        "import sys; sys.version_info = (3, 7, 16); sys.argv = ['overlay.py', 'dest']\n"
        f"sys.path.insert(0, {str(TOOLS)!r}); import overlay; overlay.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=str(tmp_path),
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert done.returncode == 1 and "for Python 3.8 and later" in done.stderr
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.skipif(
    "expect_initret" not in (multiprocessing.pool.Pool.__init__.__kwdefaults__ or ()),
    reason="this interpreter is not patched",
)
def test_the_patch_is_plumbed_openly():
    """The backport leaves worker() alone, so the suite can't say this."""
    parameters = inspect.signature(multiprocessing.pool.worker).parameters
    assert list(parameters)[-2:] == ["wrap_exception", "expect_initret"]
    assert parameters["expect_initret"].default is False
