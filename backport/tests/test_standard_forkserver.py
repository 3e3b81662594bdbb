"""Private names of the fork server: an interpreter that lacks one is not supported."""

import multiprocessing
import multiprocessing.process

import pytest
from multiprocessing_initret._parent import standard_forkserver
from multiprocessing_initret._shared.initargs import PICKLES_ONCE

pytestmark = pytest.mark.skipif(
    not PICKLES_ONCE or "forkserver" not in multiprocessing.get_all_start_methods(),
    reason="there are no templates",
)


def test_check_finds_no_name_missing():
    standard_forkserver.check("multiprocessing")


TABLES = {
    "forkserver": standard_forkserver._REQUIRED_OF_FORKSERVER,
    "popen_forkserver": standard_forkserver._REQUIRED_OF_POPEN,
    "process": standard_forkserver._REQUIRED_OF_PROCESS,
    "util": {"get_temp_dir": ()},
}


@pytest.mark.parametrize(
    "path", [f"{module}.{path}" for module, table in TABLES.items() for path in table]
)
def test_missing_name(monkeypatch, path):
    with monkeypatch.context() as patch:
        patch.delattr("multiprocessing." + path)
        with pytest.raises(RuntimeError) as raised:
            standard_forkserver.check("multiprocessing")
    assert "multiprocessing." + path in str(raised.value)


@pytest.mark.parametrize("path", ["popen_forkserver.Popen._launch", "forkserver.main"])
def test_names_in_a_function(monkeypatch, path):
    module, _, name = path.partition(".")
    names = TABLES[module][name]
    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing." + path, lambda self, process: None)
        with pytest.raises(RuntimeError) as raised:
            standard_forkserver.check("multiprocessing")
    assert all(f"no {name} in multiprocessing.{path}" in str(raised.value) for name in names)


def test_function_is_a_closure(monkeypatch):
    function = multiprocessing.process.BaseProcess.__init__

    def init(*args, **kwds):
        function(*args, **kwds)
        return multiprocessing.process._process_counter

    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.process.BaseProcess, "__init__", init)
        with pytest.raises(RuntimeError, match="__init__ without free variables"):
            standard_forkserver.check("multiprocessing")
