"""Tests that modules of the package import only modules below them, as its documentation says."""

import ast
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "backport" / "src" / "multiprocessing_initret"
PAGE = REPOSITORY / "backport" / "docs" / "how-it-works.rst"


def listed():
    """Return the modules in the order of the list "Where to find what"."""
    text = PAGE.read_text(encoding="utf-8")
    lines = text.partition("\n   multiprocessing_initret/\n")[2].partition("\n\n")[0].splitlines()
    modules, directory = [], ""
    for line in lines:
        for name in line.strip().partition("  ")[0].split(", "):
            name = name.split(" ")[0]
            if name.endswith("/"):
                directory = name
            else:
                modules.append(directory + name)
    return modules


def existing():
    modules = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return {module.as_posix() for module in modules}


def imported(module):
    """Yield the modules of the package that a module imports, also for annotations only."""
    path, modules = PACKAGE / f"{module}.py", existing()
    parents = list(pathlib.PurePosixPath(module).parents)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        # The code of a function in _install is put into multiprocessing.dummy, and imports from
        # the parent of that module.
        if isinstance(node, ast.ImportFrom) and 0 < node.level <= len(parents):
            directory = parents[node.level - 1]
            if node.module:
                directory /= node.module.replace(".", "/")
            for alias in node.names:
                # An object in a module, a module in a directory, or an object in that directory.
                names = directory, directory / alias.name, directory / "__init__"
                yield from [name.as_posix() for name in names if name.as_posix() in modules][:1]


def test_each_module_is_listed():
    empty = {"_parent/__init__", "_worker/__init__", "_shared/__init__"}
    assert sorted(listed()) == sorted(existing() - empty)
    assert not any((PACKAGE / f"{module}.py").stat().st_size for module in empty)


def test_imports():
    """Only the executors import modules that are listed above them; no imports are circular."""
    order = listed()
    upward = {
        (module, name)
        for module in order
        for name in imported(module)
        if order.index(name) <= order.index(module)
    }
    assert upward == {
        ("_worker/executor", "_parent/executor"),
        ("_parent/executor", "_standard_executor"),
    }
