"""Advice for a program whose workers cannot import its main module, or a name from it."""

import os
import pickle
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

_ADVICE = (
    "move it to a module, or use multiprocessing.get_context('fork').Pool where fork is "
    "available, or multiprocess with multiprocessing_initret.install('multiprocess')"
)


def _first_argument() -> "Optional[str]":
    return next(iter(getattr(sys, "argv", ())), None)  # a program that embeds Python may have none


def _is_read_from_stdin(main: object) -> bool:
    # The value of __file__ depends on the version of Python.
    name = os.path.basename(getattr(main, "__file__", None) or "")
    return name in ("<stdin>", "stdin") or (not name and _first_argument() in ("-", ""))


def missing_name_hint() -> str:
    """Return why a function of the main module may be missing in non-forked workers."""
    main = sys.modules.get("__main__")
    spec_name = getattr(getattr(main, "__spec__", None), "name", None) or ""
    if spec_name.rpartition(".")[2] == "__main__":
        return (
            "workers do not import the __main__.py of a package, directory or zip file run as "
            f"a program: {_ADVICE}"
        )
    if hasattr(sys, "ps1") or hasattr(main, "get_ipython"):
        return f"workers cannot import what is defined in an interactive session: {_ADVICE}"
    if _first_argument() == "-c":
        return f"workers cannot import what is defined by python -c: {_ADVICE}"
    if _is_read_from_stdin(main):
        return f"workers cannot import a program that is read from stdin: {_ADVICE}"
    if not hasattr(main, "__file__"):  # in an exit handler, or in a thread that still runs
        return f"workers cannot import a main module that has ended: {_ADVICE}"
    return (
        'workers import the main module without what follows `if __name__ == "__main__":`: '
        f"define it before that line, or {_ADVICE}"
    )


def startup_failure_hint() -> str:
    """Return why workers may exit while they are starting."""
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) and _is_read_from_stdin(main):
        return (
            "Workers cannot import a program that is read from stdin: write it to a file. "
            "See stderr for the traceback"
        )
    return (
        'The pool may have been created without an `if __name__ == "__main__":` guard, or '
        "importing the main module may have failed. See stderr for the traceback"
    )


def explain_unpicklable(error: BaseException) -> BaseException:
    """Return the exception of a task that cannot be pickled, and explain it if possible.

    A function of a main module that has been replaced cannot be pickled: runners such as
    ``cProfile`` and :func:`runpy.run_path` restore their own module when the program has ended,
    although its threads and its exit handlers continue.
    """
    text = str(error) if type(error) is pickle.PicklingError else ""
    # Python 3.14 changed the message from the first text to the second.
    is_missing = "on __main__ failed" in text or "not found as __main__." in text
    if not is_missing or "<lambda>" in text or "<locals>" in text:
        return error
    return type(error)(
        f"{text}: the main module of the program has ended, or was replaced by a runner; "
        "define the function in a module"
    ).with_traceback(error.__traceback__)
