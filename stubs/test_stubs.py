"""With the patches for typeshed, mypy accepts expect_initret for Python 3.16 and later."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys

import mypy
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TYPED = REPOSITORY / "backport" / "tests" / "typed.py"
README = REPOSITORY / "README.rst"
CPYTHON = os.environ.get("CPYTHON", "")
MAIN = pathlib.Path(CPYTHON) if os.path.isdir(CPYTHON) else None


@pytest.fixture(scope="module")
def typeshed(tmp_path_factory):
    """Return a patched copy of the typeshed that mypy contains."""
    directory = tmp_path_factory.mktemp("typeshed")
    shutil.copytree(
        str(pathlib.Path(mypy.__file__).parent / "typeshed"), str(directory / "patched")
    )
    patches = sorted(map(str, (REPOSITORY / "stubs").rglob("*.patch")))
    subprocess.run(["git", "init", "-q"], cwd=str(directory / "patched"), check=True)
    subprocess.run(["git", "apply", *patches], cwd=str(directory / "patched"), check=True)
    return directory / "patched"


def check(program, *options, version="3.16"):
    """Return the lines that mypy prints about a program."""
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
    """Return the program that tests the types of the package, with the pools of multiprocessing."""
    text = TYPED.read_text(encoding="utf-8").replace(
        "from multiprocessing_initret import", "from multiprocessing.pool import"
    )
    program = tmp_path / "native.py"
    program.write_text(re.sub(r"^.*multiprocessing_initret.*\n", "", text, flags=re.MULTILINE))
    return program


def test_typed_program(native, typeshed):
    assert check(native, "--custom-typeshed-dir", typeshed) == [
        "Success: no issues found in 1 source file"
    ]
    assert any("expect_initret" in line for line in check(native)), (
        "typeshed has expect_initret already"
    )
    before = check(native, "--custom-typeshed-dir", typeshed, version="3.15")
    assert any("expect_initret" in line for line in before)


def test_every_constructor(tmp_path, typeshed):
    constructors = [
        "multiprocessing.Pool",
        "multiprocessing.get_context('spawn').Pool",
        "multiprocessing.pool.ThreadPool",
        "multiprocessing.dummy.Pool",
        "multiprocessing.Manager().Pool",
    ]
    program = tmp_path / "constructors.py"
    lines = ["import multiprocessing.dummy, multiprocessing.pool"]
    lines += [f"{constructor}(1, int, (1,), expect_initret=True)" for constructor in constructors]
    lines += [f"{constructor}(1, int, (1,), expect_initret='yes')" for constructor in constructors]
    program.write_text("\n".join(lines))
    lines = check(program, "--custom-typeshed-dir", typeshed)
    assert len(lines) == 6 and lines[-1].startswith("Found 5 errors")
    assert all('"expect_initret"' in line and '"bool"' in line for line in lines[:-1])


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_buffersize_is_keyword_only(tmp_path, typeshed, name):
    """mypy accepts what the signature in CPython's main branch accepts, and rejects the rest."""
    program = tmp_path / "buffersize.py"
    program.write_text(
        "from multiprocessing.pool import Pool\n"
        "def scale(number: int, initret: int) -> int: return number * initret\n"
        "pool = Pool(1, int, (1,), expect_initret=True)\n"
        f"pool.{name}(scale, [1], buffersize=2)\n"
        f"pool.{name}(abs, [1], 1, buffersize=2)\n"
    )
    lines = check(program, "--custom-typeshed-dir", typeshed)
    assert lines == ["Success: no issues found in 1 source file"]
    before = check(program, "--custom-typeshed-dir", typeshed, version="3.15")
    assert any('"buffersize"' in line for line in before)
    program.write_text(f"from multiprocessing.pool import Pool\nPool(1).{name}(abs, [1], 1, 2)\n")
    lines = check(program, "--custom-typeshed-dir", typeshed)
    assert lines[-1].startswith("Found 1 error")


@pytest.mark.skipif(not MAIN, reason="CPYTHON names no CPython checkout")
@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_main_rejects_the_same_calls(name):
    tree = ast.parse((MAIN / "Lib" / "multiprocessing" / "pool.py").read_text(encoding="utf-8"))
    (pool,) = [node for node in tree.body if getattr(node, "name", "") == "Pool"]
    (method,) = [node for node in pool.body if getattr(node, "name", "") == name]
    assert [arg.arg for arg in method.args.args] == ["self", "func", "iterable", "chunksize"]
    assert [arg.arg for arg in method.args.kwonlyargs] == ["buffersize"]


@pytest.mark.parametrize("call", ["map(scale, [1])", "map_async(scale, [1])", "imap(scale, [1])"])
def test_required_initret_before_316(tmp_path, typeshed, call):
    program = tmp_path / "required.py"
    program.write_text(
        "from multiprocessing.pool import Pool\n"
        "def scale(number: int, initret: int) -> int: return number * initret\n"
        f"Pool(1).{call}\n"
    )
    lines = check(program, "--custom-typeshed-dir", typeshed, version="3.15")
    assert lines[-1].startswith("Found 1 error")


def test_readme(tmp_path, typeshed):
    pytest.importorskip("multiprocessing_initret")
    pytest.importorskip("sqlalchemy")
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", README.read_text("utf-8"))
    blocks = [block for block in blocks if "expect_initret" in block]
    assert blocks
    untyped = ["--allow-untyped-defs", "--allow-untyped-calls"]
    for block in blocks:
        program = tmp_path / "block.py"
        program.write_text("if True:\n" + block)
        lines = check(program, "--custom-typeshed-dir", typeshed, *untyped)
        assert lines == ["Success: no issues found in 1 source file"], block
