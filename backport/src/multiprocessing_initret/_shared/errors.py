"""The exception of a task whose worker exited."""

from multiprocessing import ProcessError


class WorkerLostError(ProcessError):
    """The outcome of a task whose worker left before it had finished.

    The text says which worker it was and how it left.  The task may have run in
    part, or not at all.  When a pool breaks, and when it is terminated, this is the
    outcome of all its tasks that are left.
    """


WorkerLostError.__module__ = "multiprocessing_initret"
