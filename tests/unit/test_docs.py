"""The documentation: its site and its links."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from service.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def lines(page: Path, indent: str = "    ") -> Iterator[str]:
    """The lines of a page's indented blocks, without comments; a line that ends in a backslash goes on in the next."""
    text = re.sub(r"\\\n *", "", page.read_text())
    for line in text.splitlines():
        if line.startswith(indent):
            yield re.sub(r"\s+#.*", "", line.strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_there_is_with_options_that_it_has(page: Path) -> None:
    for line in lines(page):
        if not line.startswith("yoso ") or "…" in line:
            continue
        command = typer.main.get_command(app)
        words = shlex.split(re.split(r" (?:&&|[|>]) ", line)[0])[1:]
        context = command.make_context("yoso", words)  # raises for what it does not know
        while isinstance(command, typer.core.TyperGroup):
            name, found, words = command.resolve_command(context, [*context._protected_args, *context.args])
            assert name is not None and found is not None, line
            command, context = found, found.make_context(name, words, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_named_in_a_sentence_is_there_with_its_options(page: Path) -> None:
    sentences = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for span in re.findall(r"`(yoso [a-z][^`]*)`", sentences):
        words = re.sub(r"[\[\]]", "", span).split()[1:]
        command = typer.main.get_command(app)
        known = {"--profile", "--debug", "--help"}
        while words and isinstance(command, typer.core.TyperGroup):
            assert words[0] in command.commands, span
            command = command.commands[words.pop(0)]
        known |= {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known, span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", page.read_text(), re.M):
        assert target.rstrip("-") in targets or target == "bench-", target


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
