"""The private names of pools, executors and the fork server that the package uses are checked."""

import ast
import importlib
import inspect
import pathlib

import multiprocessing_initret
import pytest
from multiprocessing_initret import _standard_executor
from multiprocessing_initret._parent import standard_forkserver, standard_pool

POOL = [
    standard_pool._REQUIRED,
    standard_pool._REQUIRED_WITH_NOTIFIER,
    standard_pool._REQUIRED_WITH_BUFFERSIZE,
    standard_pool._REQUIRED_OF_QUEUES,
]
FORKSERVER = [standard_forkserver._REQUIRED_OF_FORKSERVER, standard_forkserver._REQUIRED_WITH_KEY]
PROCESS_EXECUTOR = [_standard_executor.PROCESS_REQUIREMENTS]
THREAD_EXECUTOR = [_standard_executor.THREAD_REQUIREMENTS]

# Names that are used only if they exist, and names that are used of other classes only.
UNCHECKED = {
    "multiprocessing.pool": {"_initargs"},
    "multiprocessing.forkserver": {"_preload_modules", "_lock", "_inheriting", "_exit"},
    "concurrent.futures.process": {
        "_lock",
        "_processes",
        "_reader",
        "_terminate_broken",
        "_writer",
    },
    "concurrent.futures.thread": set(),
}


def is_private(name):
    return name.isidentifier() and name.startswith("_") and not name.startswith("__")


def is_self(node):
    """Return whether an expression is `self`, `cls` or `super()`."""
    return getattr(node, "id", "") in ("self", "cls") or (
        isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super"
    )


def uses(path):
    """Yield the private names that a module uses as attributes, keywords or strings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and not is_self(node.value):
            name = node.attr
        elif isinstance(node, ast.keyword):
            name = node.arg or ""
        else:
            constant = vars(node)
            name = constant.get("value", constant.get("s", ""))  # "s" before Python 3.8
        if isinstance(name, str) and is_private(name):
            yield name


def defined(module):
    """Return the private names of attributes, functions and classes in the source of a module."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        found.add(getattr(node, "attr", getattr(node, "name", "")))
    return {name for name in found if isinstance(name, str) and is_private(name)}


@pytest.mark.parametrize(
    "name, tables",
    [
        ("multiprocessing.pool", POOL),
        ("multiprocessing.forkserver", FORKSERVER),
        ("concurrent.futures.process", PROCESS_EXECUTOR),
        ("concurrent.futures.thread", THREAD_EXECUTOR),
    ],
)
def test_names_are_listed(name, tables):
    try:
        module = importlib.import_module(name)
        private = defined(module)
    except (ImportError, OSError):  # Windows' embeddable package has no source
        pytest.skip(f"no {name} here, or no source of it")
    listed = {part for table in tables for path in table for part in path.split(".")}
    listed |= {part for table in tables for names in table.values() for part in names}
    package = pathlib.Path(multiprocessing_initret.__file__).parent
    used = {found for path in package.rglob("*.py") for found in uses(path)}
    assert (used & private) - listed - UNCHECKED[name] == set()
