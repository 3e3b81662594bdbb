"""Tests that tools/overlay.py writes a patched copy, or reports why it cannot."""

import inspect
import multiprocessing.pool
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import stand_in

TOOLS = pathlib.Path(__file__).parent
PATCHES = TOOLS.parent / "Lib" / "multiprocessing"


def overlay(dest, *options, tools=TOOLS, **env):
    done = subprocess.run(
        [sys.executable, str(tools / "overlay.py"), str(dest), *map(str, options)],
        cwd=str(dest.parent),
        env=dict(os.environ, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_only_the_patched_files_differ(tmp_path):
    dest = tmp_path / "new" / "directory"
    (tmp_path / "new").mkdir()
    assert overlay(dest) == (0, "")
    assert os.listdir(str(dest)) == ["multiprocessing"]
    original = pathlib.Path(os.__file__).parent / "multiprocessing"
    names = {path.relative_to(original) for path in original.rglob("*.py")}
    assert {path.relative_to(dest / "multiprocessing") for path in dest.rglob("*.py")} == names
    changed = {
        name
        for name in names
        if (dest / "multiprocessing" / name).read_text(encoding="utf-8")
        != (original / name).read_text(encoding="utf-8")
    }
    patched = {path.relative_to(PATCHES).with_suffix("") for path in PATCHES.rglob("*.patch")}
    assert changed == patched


@pytest.mark.skipif(not stand_in.MAIN, reason="CPYTHON names no CPython checkout")
def test_base(tmp_path):
    unpatched, patched = tmp_path / "unpatched", tmp_path / "patched"
    assert overlay(unpatched, "--base", stand_in.MAIN, "--unpatched") == (0, "")
    assert overlay(patched, "--base", stand_in.MAIN) == (0, "")
    pool = stand_in.MAIN / "Lib" / "multiprocessing" / "pool.py"
    assert (unpatched / "multiprocessing" / "pool.py").read_bytes() == pool.read_bytes()
    assert "expect_initret" in (patched / "multiprocessing" / "pool.py").read_text("utf-8")
    for dest in unpatched, patched:
        assert sorted(os.listdir(str(dest))) == ["concurrent", "multiprocessing"]


def test_base_is_not_cpython(tmp_path):
    code, message = overlay(tmp_path / "dest", "--base", tmp_path)
    assert code == 1 and "--base must name" in message
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize("around", ["none", "repository", "work tree"])
def test_inside_a_repository(tmp_path, around):
    env = {}
    if around != "none":
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    if around == "work tree":
        env = {"GIT_DIR": str(tmp_path / ".git"), "GIT_WORK_TREE": str(tmp_path)}
    assert overlay(tmp_path / "dest", TMPDIR=str(tmp_path), **env) == (0, "")
    assert "expect_initret" in (tmp_path / "dest/multiprocessing/pool.py").read_text()


def test_hunk_does_not_apply(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("overlay.py", "git_environment.py"):
        shutil.copy(str(TOOLS / name), str(tools))
    shutil.copytree(str(PATCHES), str(tmp_path / "Lib" / "multiprocessing"))
    patch = tmp_path / "Lib" / "multiprocessing" / "pool.py.patch"
    patch.write_text(patch.read_text().replace(" job_counter = ", " job_counter_of_old = "))
    code, message = overlay(tmp_path / "dest", tools=tools)
    assert code == 1
    assert "pool.py.patch does not apply" in message and "pool.py:" in message
    assert not (tmp_path / "dest").exists()


def test_dest_exists(tmp_path):
    dest = tmp_path / "dest"
    assert overlay(dest) == (0, "")
    code, message = overlay(dest)
    assert code == 1 and "exists already" in message


def test_no_git(tmp_path):
    code, message = overlay(tmp_path / "dest", PATH=str(tmp_path))
    assert code == 1 and "git must be on PATH" in message
    assert not (tmp_path / "dest").exists()


def test_old_python(tmp_path):
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


patched = pytest.mark.skipif(
    "expect_initret" not in inspect.signature(multiprocessing.pool.worker).parameters,
    reason="this interpreter is not patched",
)


@patched
def test_worker_parameter():
    """The package does not change worker(), so the conformance tests cannot check this."""
    parameters = inspect.signature(multiprocessing.pool.worker).parameters
    assert list(parameters)[-2:] == ["wrap_exception", "expect_initret"]
    assert parameters["expect_initret"].default is False
    with pytest.raises(ValueError, match="requires an initializer"):
        multiprocessing.pool.worker(None, None, expect_initret=True)


def return_value(value):
    return value


def double(item):
    return 2 * item


def get_initret(item, initret="default"):
    return initret


class StaticMethodPool(multiprocessing.pool.Pool):
    """Overrides _repopulate_pool_static() with the parameters of the standard pool."""

    @staticmethod
    def _repopulate_pool_static(
        ctx,
        Process,
        processes,
        pool,
        inqueue,
        outqueue,
        initializer,
        initargs,
        maxtasksperchild,
        wrap_exception,
    ):
        args = inqueue, outqueue, initializer, initargs, maxtasksperchild, wrap_exception
        start_workers(Process, ctx, processes, pool, args)


class MethodPool(multiprocessing.pool.Pool):
    """Overrides _repopulate_pool() alone: the static method of Pool starts the replacements."""

    def _repopulate_pool(self):
        args = self._inqueue, self._outqueue, self._initializer, self._initargs
        args += self._maxtasksperchild, self._wrap_exception
        start_workers(self.Process, self._ctx, self._processes, self._pool, args)


def start_workers(Process, ctx, processes, pool, args):
    for _ in range(processes - len(pool)):
        process = Process(ctx, target=multiprocessing.pool.worker, args=args)
        process.daemon = True
        process.start()
        pool.append(process)


@patched
@pytest.mark.parametrize("cls", [StaticMethodPool, MethodPool])
def test_subclass(cls):
    with cls(2) as pool:
        assert pool.map(double, range(5)) == [0, 2, 4, 6, 8]
    with cls(2, return_value, (40,), 2, expect_initret=True) as pool:
        assert pool.map(get_initret, range(10), 1) == [40] * 10
