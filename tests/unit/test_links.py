"""Links between the pages of the documentation."""

import re

import pytest

from tests.helpers.servers import ROOT


@pytest.mark.parametrize(
    "page",
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("*/*.md"),
        *ROOT.glob("*/*/README.md"),
        *ROOT.glob("scripts/demo/checkpoint/README.md"),
        *ROOT.glob("client/src/*/*/README.md"),
        *ROOT.glob("tests/system/*/README.md"),
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_relative_links_lead_to_existing_files(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
