"""Private names of the fork server: an interpreter that lacks one is not supported."""

import multiprocessing
import multiprocessing.context
import multiprocessing.process

import multiprocessing_initret
import pytest
from conftest import WINDOWS
from multiprocessing_initret._parent import standard_forkserver
from multiprocessing_initret._shared.initargs import PICKLES_ONCE
from pool_support import rename_in

if not WINDOWS:
    import multiprocessing.forkserver
    import multiprocessing.popen_forkserver

pytestmark = pytest.mark.skipif(
    not PICKLES_ONCE or "forkserver" not in multiprocessing.get_all_start_methods(),
    reason="there are no templates",
)


def test_check_finds_no_name_missing():
    standard_forkserver.check("multiprocessing")


TABLES = [
    ("forkserver", standard_forkserver._REQUIRED_OF_FORKSERVER),
    ("popen_forkserver", standard_forkserver._REQUIRED_OF_POPEN),
    ("process", standard_forkserver._REQUIRED_OF_PROCESS),
    ("context", standard_forkserver._REQUIRED_OF_CONTEXTS),
    ("util", {"get_temp_dir": ()}),
]
if not WINDOWS and hasattr(multiprocessing.forkserver, "_AUTHKEY_LEN"):  # since Python 3.14
    TABLES.append(("forkserver", standard_forkserver._REQUIRED_WITH_KEY))


def required():
    """Yield the path of each required object with None, and with each name that it must use."""
    for module, table in TABLES:
        for path, names in table.items():
            if not path.endswith("__init__"):  # a class without its own inherits another
                yield f"{module}.{path}", None
            for name in names:
                yield f"{module}.{path}", name


def find(path):
    obj = multiprocessing
    for name in path.split("."):
        obj = getattr(obj, name)
    return obj


@pytest.mark.parametrize("path, name", list(required()))
def test_missing_name(monkeypatch, path, name):
    with monkeypatch.context() as patch:
        if name is None:
            patch.delattr("multiprocessing." + path)
        else:
            patch.setattr("multiprocessing." + path, rename_in(find(path), name))
        with pytest.raises(RuntimeError) as raised:
            standard_forkserver.check("multiprocessing")
    missing = f"multiprocessing.{path}"
    assert (missing if name is None else f"no {name} in {missing}") in str(raised.value)


def test_function_is_a_closure(monkeypatch):
    function = multiprocessing.process.BaseProcess.__init__

    def init(*args, **kwds):
        function(*args, **kwds)
        return multiprocessing.process._process_counter

    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.process.BaseProcess, "__init__", init)
        with pytest.raises(RuntimeError, match="__init__ without free variables"):
            standard_forkserver.check("multiprocessing")


def test_install_without_private_names_of_contexts(monkeypatch):
    """install() preloads no modules."""
    monkeypatch.delattr(multiprocessing.context, "_concrete_contexts")
    multiprocessing_initret.install()
    assert multiprocessing_initret.is_installed()
    multiprocessing_initret.uninstall()
