from pathlib import Path

import pytest
from project_copy import Project, copy_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the project with nothing done in it."""
    return copy_project(tmp_path)
