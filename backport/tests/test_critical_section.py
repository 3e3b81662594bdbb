"""Critical sections, in which the garbage collector must not terminate the pool."""

import sys
import threading

import pytest
from conftest import call_in_thread
from multiprocessing_initret._parent.critical_section import CriticalSection


@pytest.fixture
def section():
    return CriticalSection()


def test_outside(section):
    assert not section.postpones(print)
    with section:
        pass
    assert not section.postpones(print)


def test_inside(section):
    calls = []
    with section:
        assert section.postpones(calls.append, 1)
        assert calls == []
    assert calls == [1]
    with section:
        pass
    assert calls == [1]


def test_nested(section):
    calls = []
    with section:
        with section:
            assert section.postpones(calls.append, 1)
        assert calls == []
    assert calls == [1]


def test_exception(section):
    calls = []
    with pytest.raises(LookupError), section:
        section.postpones(calls.append, 1)
        raise LookupError
    assert calls == [1] and not section.postpones(print)


def test_interrupted(section):
    """Ctrl-C may prevent the call of __exit__()."""

    def enter():
        section.__enter__()

    enter()
    assert not section.postpones(print)


def test_other_thread(section):
    """Another thread is not in the section, and does not make the calls of this one."""
    calls = []

    def enter_and_leave():
        with section:
            return section.postpones(calls.append, 2)

    with section:
        assert section.postpones(calls.append, 1)
        assert not call_in_thread(lambda: section.postpones(print))
        assert call_in_thread(enter_and_leave)
        assert calls == [2]
    assert calls == [2, 1]


@pytest.mark.parametrize("name", ["sender", "receiver"])
def test_without_a_with_statement(section, name):
    calls = []
    setattr(section, name, threading.get_ident())
    assert section.postpones(calls.append, 1)
    assert not call_in_thread(lambda: section.postpones(print))
    section.run_postponed()
    assert calls == []
    setattr(section, name, None)
    section.run_postponed()
    assert calls == [1] and not section.postponed


def test_call_is_made_outside(section):
    """A postponed function is called outside the section, so postpones() returns False in it."""
    postponed = []
    with section:
        section.postpones(lambda: postponed.append(section.postpones(print)))
    assert postponed == [False]


def test_sections_of_other_pools(section):
    """A thread that starts a worker of one pool must not terminate another pool."""
    calls = []
    with CriticalSection():
        assert section.postpones(calls.append, 1)
    assert calls == [1]


def test_forked_child(section):
    """The thread that forked it is in the section, and the child never leaves it."""
    section.__enter__()
    section.postpones(print)
    section.leave_in_child()
    assert not section.postpones(print) and not section.postponed


def test_forked_child_leaves_the_section(section):
    """A signal handler, or a __reduce__() method, may call os.fork() in the section."""
    with section:
        section.leave_in_child()
    assert not section.is_entered()


def test_function_enters_the_section(section):
    """When it leaves it, it makes the other calls."""
    calls = []

    def enter_and_leave():
        with section:
            calls.append(1)

    with section:
        section.postpones(enter_and_leave)
        section.postpones(calls.append, 2)
    assert calls == [1, 2] and not section.postponed


def test_function_raises_an_exception(section, monkeypatch):
    """It is reported, and the thread continues: the garbage collector has called terminate()."""
    reported = []
    monkeypatch.setattr(sys, "excepthook", lambda cls, error, traceback: reported.append(cls))
    with section:
        section.postpones(int, "no number")
    assert reported == [ValueError]
