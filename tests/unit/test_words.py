"""The words of Yoso: docs/glossary.md holds for the documentation and for every message that the code can give."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("nas_core", "service", "worker", "yoso")
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
PLACEHOLDER = "…"


def refused() -> dict[str, str]:
    """What to write, by each word or phrase that the glossary refuses."""
    terms, phrases = (ROOT / "docs" / "glossary.md").read_text().split("## Phrases")
    found: dict[str, str] = {}
    for term, _, variants in re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*?) ?\|$", terms, re.M)[1:]:
        found |= {variant: term for variant in variants.split(", ") if variant.strip("- ")}
    for variants, better in re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", phrases, re.M)[1:]:
        found |= dict.fromkeys(variants.split(", "), better)
    return found


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a module but its docstrings, with its line; values inserted into it become a placeholder."""
    tree = ast.parse(path.read_text())
    docstrings = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    inner = set()
    for one in ast.walk(tree):
        if isinstance(one, ast.JoinedStr):
            inner |= {id(part) for part in one.values}
            yield one.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else PLACEHOLDER for p in one.values)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in docstrings | inner:
            yield one.lineno, one.value


def shown(path: Path) -> str:
    """The text of a template: without tags, expressions and comments."""
    return re.sub(r"<[^>]*>|\{[{%#].*?[}%#]\}", PLACEHOLDER, path.read_text(), flags=re.S)


def wrong(text: str) -> list[str]:
    """The words of a text that the glossary refuses, each with what to write."""
    words = " ".join(text.split())
    return [f"{word!r}: write {better!r}" for word, better in REFUSED.items() if re.search(rf"(?i)\b{word}\b", words)]


REFUSED = refused()


def test_the_glossary_is_read_and_refuses() -> None:
    assert REFUSED["data set"] == "dataset" and len(REFUSED) > 20
    assert wrong("Take another\nData set.") == ["'data set': write 'dataset'"] and not wrong("a dataset, commend")


@pytest.mark.parametrize("package", PACKAGES)
def test_messages_keep_to_the_glossary(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {fault}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if "migrations" not in path.parts
        for line, text in messages(path)
        for fault in wrong(text)
    ]
    assert not found, "\n".join(found)


def test_templates_keep_to_the_glossary() -> None:
    templates = sorted((ROOT / "service" / "dashboard" / "templates").glob("*.html"))
    found = [f"{path.name}: {fault}" for path in templates for fault in wrong(shown(path))]
    assert templates and not found, "\n".join(found)


def test_documentation_keeps_to_the_glossary() -> None:
    found = []
    for path in PAGES:
        if path.name in ("glossary.md", "benchmarks.md"):  # the words themselves; figures, which stay as they are
            continue
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
        found += [f"{path.relative_to(ROOT)}: {fault}" for fault in wrong(text)]
    assert not found, "\n".join(found)
