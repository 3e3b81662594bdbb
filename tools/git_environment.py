"""What git is told by its environment, without what would point it elsewhere."""

import os

# What would have git work on another repository than it is told to, in a hook say.
LOCATORS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def without_locators(**more):
    """Return this process's environment for a git that is to find its repository itself."""
    env = {name: value for name, value in os.environ.items() if name not in LOCATORS}
    return dict(env, **more)
