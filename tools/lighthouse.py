"""What Lighthouse says of every page of the dashboard: `make lighthouse`.

The pages are those of `make screenshots`. A page passes with 100 for accessibility and best practices, at least 95 for
performance, and no request to another host. `npm` and Chromium must be there; `make` installs Lighthouse into build/.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests import browsing, seeding
from tools import screenshots

LIGHTHOUSE = Path(__file__).parents[1] / "build" / "lighthouse" / "node_modules" / ".bin" / "lighthouse"
LEAST = {"performance": 95, "accessibility": 100, "best-practices": 100}
"""The score that a page needs in each category, of 100."""


def audit(url: str, mobile: bool) -> dict[str, Any]:
    """Lighthouse's report on the page at `url`, as a phone or a desktop computer shows it."""
    command = [
        str(LIGHTHOUSE), url, "--quiet", "--output=json", f"--only-categories={','.join(LEAST)}",
        f"--chrome-flags=--headless=new {' '.join(browsing.FLAGS)}", *([] if mobile else ["--preset=desktop"]),
    ]  # fmt: skip
    ran = subprocess.run(
        command,
        env=os.environ | {"CHROME_PATH": browsing.installed() or ""},
        capture_output=True,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def failures(report: dict[str, Any], host: str) -> list[str]:
    """What keeps a page from passing: scores that are too low with the audits that cost them, and foreign hosts."""
    wrong = []
    for category, least in LEAST.items():
        told = report["categories"][category]
        if round(100 * (told["score"] or 0)) < least:
            lost = [one["id"] for one in told["auditRefs"] if one["weight"] and _failed(report["audits"][one["id"]])]
            wrong.append(f"{category}: {', '.join(lost) or report.get('runtimeError', {}).get('message', 'no score')}")
    requests = report["audits"].get("network-requests", {}).get("details", {}).get("items", [])
    foreign = {urlsplit(one["url"]).netloc for one in requests if one["url"].startswith("http")} - {host}
    return wrong + [f"requests to {', '.join(sorted(foreign))}"] * bool(foreign)


def _failed(audit: dict[str, Any]) -> bool:
    return audit["score"] is not None and audit["score"] < 0.9


def main() -> int:
    """Audit the pages that are named, or all; print a line for each, and what is wrong below it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", help="names of pages as in docs/screenshots (all)")
    parser.add_argument("--mobile", action="store_true", help="as a phone with a slow connection, not as a desktop")
    asked = parser.parse_args()
    passed = True
    with screenshots.made_up(), tempfile.TemporaryDirectory() as folder:
        app = screenshots.service(Path(folder))
        pages = screenshots.morning(app) | {"webhooks": "/webhooks", "docs": "/docs"}
        with seeding.serving(app) as url:
            print(f"{'page':<14}" + "".join(f"{category:>16}" for category in LEAST))
            for name in asked.pages or pages:
                if name == "missing":
                    continue  # it answers 404 on purpose, which Lighthouse does not audit
                report = audit(url + pages[name], asked.mobile)
                scores = (report["categories"][category]["score"] for category in LEAST)
                print(f"{name:<14}" + "".join(f"{round(100 * (score or 0)):>16}" for score in scores), flush=True)
                for line in (wrong := failures(report, urlsplit(url).netloc)):
                    print(f"  {line}")
                passed &= not wrong
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
