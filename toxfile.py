"""Plugin of tox that skips an environment if this machine does not have what it needs."""

import os
import pathlib
import shutil

from tox.plugin import impl
from tox.tox_env.errors import Skip


@impl
def tox_before_run_commands(tox_env):
    name = tox_env.conf.name
    if name == "windows" and not shutil.which("wine"):
        raise Skip("Wine is not on PATH")
    if name.startswith("next-"):
        checkout = pathlib.Path(os.environ.get("CPYTHON") or "no checkout")
        if not (checkout / "Lib" / "multiprocessing").is_dir():
            raise Skip("CPYTHON names no checkout of CPython's main branch")
