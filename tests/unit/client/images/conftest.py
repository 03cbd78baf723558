"""Fixtures of the tests that fetch images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.unit.client.images.image_site import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies of this machine."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    authority, file = trustme.CA(), tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return authority, file


@pytest.fixture(autouse=True)
def authority(_authority: tuple[trustme.CA, Path], monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return the only certificate authority that this process trusts during the tests of images.

    A guarded fetcher loads the authorities at its first fetch, and those of the system take 50 ms.
    """
    authority, file = _authority
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return authority
