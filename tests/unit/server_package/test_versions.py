"""The versions of a repository."""

import pytest

from tritonclip_server.repository import versions
from tritonclip_server.repository.configs import CONFIG, ENSEMBLES
from tritonclip_server.repository.writer import RepositoryError


def test_directory_that_is_not_a_repository_is_rejected(tmp_path):
    with pytest.raises(RepositoryError, match="is not a model repository"):
        versions.versions_of(tmp_path)


def test_repository_of_an_older_release_is_rejected(tmp_path):
    for model in ENSEMBLES:
        (tmp_path / model).mkdir()
        (tmp_path / model / CONFIG).write_text(f'name: "{model}"')
    with pytest.raises(RepositoryError, match="names no versions; write the repository again"):
        versions.versions_of(tmp_path)
