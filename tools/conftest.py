import pytest
from git_environment import LOCATORS


@pytest.fixture(autouse=True)
def no_other_repository(monkeypatch):
    """Remove the variables that a git hook sets, which name its own repository."""
    for name in LOCATORS:
        monkeypatch.delenv(name, raising=False)
