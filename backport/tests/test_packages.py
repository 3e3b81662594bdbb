"""``multiprocessing`` and its derivatives by name."""

import importlib
import multiprocessing
import sys
import threading
import types

from conftest import TIMEOUT
from multiprocessing_initret._shared import packages

SLOW = """
import events
events.started.set()
assert events.may_continue.wait(60)
value = 40
"""


def test_module_that_another_thread_imports(tmp_path, monkeypatch):
    """Two threads may create the first pools of a program."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "slow.py").write_text(SLOW)
    events = types.ModuleType("events")
    events.started, events.may_continue = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "events", events)
    monkeypatch.syspath_prepend(str(tmp_path))
    importing = threading.Thread(target=importlib.import_module, args=("package.slow",))
    importing.start()
    assert events.started.wait(TIMEOUT)
    values = []
    using = threading.Thread(
        target=lambda: values.append(hasattr(packages.module("package", "slow"), "value"))
    )
    using.start()
    using.join(0.1)  # gives it the time to fail
    events.may_continue.set()
    for thread in importing, using:
        thread.join(TIMEOUT)
    assert values == [True]


def test_imported(monkeypatch):
    """Only the program imports a module that takes time to import."""
    monkeypatch.setitem(sys.modules, "package.blocked", None)  # its import raises an exception
    assert packages.imported("package", "blocked") is None
    assert packages.imported("multiprocessing", "context") is multiprocessing.context
    assert packages.imported("package", "missing") is None
