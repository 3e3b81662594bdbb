"""The environment for calls of git that must find the repository by their directory."""

import os

# In a hook, git sets these variables, and they would direct every call to that repository.
LOCATORS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def without_locators(**more):
    """Return a copy of os.environ without the variables that name a repository."""
    env = {name: value for name, value in os.environ.items() if name not in LOCATORS}
    return dict(env, **more)
