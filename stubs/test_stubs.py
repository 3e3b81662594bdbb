"""With the patches for typeshed, a type checker knows an interpreter that has the feature."""

import pathlib
import re
import shutil
import subprocess
import sys

import mypy
import pytest

HERE = pathlib.Path(__file__).resolve().parent.parent
TYPED = HERE / "backport" / "tests" / "typed.py"
README = HERE / "README.rst"


@pytest.fixture(scope="module")
def typeshed(tmp_path_factory):
    """mypy's own typeshed, patched."""
    folder = tmp_path_factory.mktemp("typeshed")
    shutil.copytree(str(pathlib.Path(mypy.__file__).parent / "typeshed"), str(folder / "patched"))
    patches = sorted(map(str, (HERE / "stubs").rglob("*.patch")))
    subprocess.run(["git", "init", "-q"], cwd=str(folder / "patched"), check=True)
    subprocess.run(["git", "apply", *patches], cwd=str(folder / "patched"), check=True)
    return folder / "patched"


def check(program, *options, version="3.16"):
    """Return what mypy says of a program, by lines."""
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", version]
    done = subprocess.run(
        [*command, *map(str, options), str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=100,
    )
    return done.stdout.splitlines()


@pytest.fixture
def native(tmp_path):
    """What the backport's types are tested with, for the pools of multiprocessing."""
    lines = TYPED.read_text(encoding="utf-8").replace(
        "from multiprocessing_initret import", "from multiprocessing.pool import"
    )
    program = tmp_path / "native.py"
    program.write_text(re.sub(r"^.*multiprocessing_initret.*\n", "", lines, flags=re.MULTILINE))
    return program


def test_a_typed_program(native, typeshed):
    assert check(native, "--custom-typeshed-dir", typeshed) == [
        "Success: no issues found in 1 source file"
    ]
    assert any("expect_initret" in line for line in check(native)), "typeshed knows it already"
    before = check(native, "--custom-typeshed-dir", typeshed, version="3.15")
    assert any("expect_initret" in line for line in before)


def test_every_way_to_make_a_pool(tmp_path, typeshed):
    makers = [
        "multiprocessing.Pool",
        "multiprocessing.get_context('spawn').Pool",
        "multiprocessing.pool.ThreadPool",
        "multiprocessing.dummy.Pool",
        "multiprocessing.Manager().Pool",
    ]
    program = tmp_path / "makers.py"
    lines = ["import multiprocessing.dummy, multiprocessing.pool"]
    lines += [f"{maker}(1, int, (1,), expect_initret=True)" for maker in makers]
    lines += [f"{maker}(1, int, (1,), expect_initret='yes')" for maker in makers]
    program.write_text("\n".join(lines))
    said = check(program, "--custom-typeshed-dir", typeshed)
    assert len(said) == 6 and said[-1].startswith("Found 5 errors")
    assert all('"expect_initret"' in line and '"bool"' in line for line in said[:-1])


def test_buffersize(tmp_path, typeshed):
    program = tmp_path / "buffersize.py"
    program.write_text(
        "from multiprocessing.pool import Pool\n"
        "def scale(number: int, initret: int) -> int: return number * initret\n"
        "pool = Pool(1, int, (1,), expect_initret=True)\n"
        "pool.imap(scale, [1], buffersize=2)\n"
        "pool.imap_unordered(abs, [1], 1, 2)\n"
    )
    said = check(program, "--custom-typeshed-dir", typeshed)
    assert said == ["Success: no issues found in 1 source file"]
    before = check(program, "--custom-typeshed-dir", typeshed, version="3.15")
    assert any('"buffersize"' in line for line in before)


def test_the_readme(tmp_path, typeshed):
    pytest.importorskip("multiprocessing_initret")
    pytest.importorskip("sqlalchemy")
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", README.read_text("utf-8"))
    blocks = [block for block in blocks if "expect_initret" in block]
    assert blocks
    untyped = ["--allow-untyped-defs", "--allow-untyped-calls"]
    for block in blocks:
        program = tmp_path / "block.py"
        program.write_text("if True:\n" + block)
        said = check(program, "--custom-typeshed-dir", typeshed, *untyped)
        assert said == ["Success: no issues found in 1 source file"], block
