"""What the pages say is what the code does."""

import re
import runpy

from tests.conftest import ROOT


def test_the_page_of_settings_is_rendered_from_this_code():
    rendered = runpy.run_path(str(ROOT / "docs" / "render_settings.py"))["page"]()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == rendered, "run make docs"


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
