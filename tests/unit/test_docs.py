"""The documentation: its site and its links."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    """As `make docs` builds it: a broken link or anchor, or a page outside the navigation, fails."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr

    reference = {path.stem: path.read_text() for path in (tmp_path / "reference").glob("*.html")}
    assert "yoso submit" in reference["cli"] and "POST /api/v1/searches</code>" in reference["rest"]
    assert 'id="yoso.Client.submit"' in reference["python"] and 'id="yoso.SearchSpace"' in reference["python"]
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="?(?:https?:)?//[^>]*>', page.read_text())
        assert not loaded, page
