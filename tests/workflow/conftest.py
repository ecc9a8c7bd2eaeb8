from pathlib import Path

import pytest
from places import place_beside
from project_copy import Project, copy_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the project with nothing done in it."""
    return copy_project(tmp_path)


@pytest.fixture
def prepared(project: Project, workplace: Path) -> Project:
    """A copy of the project in which ``synthetic_tiny`` and its statistics are made."""
    place_beside(project.folder, workplace)
    return project
