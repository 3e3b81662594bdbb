"""The environment of a git command, without the variables that select another repository."""

import os

# Variables that select the repository, set in a git hook for instance.
LOCATORS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def without_locators(**more):
    """Return this process's environment for a git command that finds its repository itself."""
    env = {name: value for name, value in os.environ.items() if name not in LOCATORS}
    return dict(env, **more)
