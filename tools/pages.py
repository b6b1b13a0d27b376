"""The pages of the documentation that come from the code and from other files: hooks of MkDocs (`mkdocs.yml`).

The README is the first page. The REST page comes from the service's own OpenAPI description, and that of the
command line from Typer.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from service.app import create_app
from service.settings import Settings

ROOT = Path(__file__).parents[1]
COPIED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "LICENSE": "LICENSE",
    "examples/first_search.ipynb": "examples/first_search.ipynb",
    "examples/sweep.py": "examples/sweep.py",
}
"""Files of the repository by their place in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold."""
    for path, place in COPIED.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference/cli.md", content=cli_page()))
    files.append(File.generated(config, "reference/rest.md", content=rest_page(described())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links between docs/ and the rest of the repository lead to where the files are in the site."""
    for path, place in COPIED.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(path)}(?=[)#])", f"]({place}", markdown)
    return markdown.replace("](docs/", "](") if page.file.src_path in COPIED.values() else markdown


def cli_page() -> str:
    """Every command with its options."""
    command = [
        sys.executable,
        "-m",
        "typer",
        "service.cli",
        "utils",
        "docs",
        "--name",
        "yoso",
        "--title",
        "Command line",
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def described() -> dict[str, Any]:
    """The OpenAPI description of a service with an empty database."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings.from_environment({"YOSO_STORAGE": folder}), dispatch=False)
        try:
            return app.openapi()
        finally:
            app.state.context.callers.tokens.engine.dispose()


def rest_page(api: dict[str, Any]) -> str:
    """Every route and every object of an OpenAPI description, as Markdown."""
    lines = [
        "# REST",
        "",
        "A service shows the same at `/docs`, where you can try requests, and serves it at `/openapi.json`. Requests "
        "carry `Authorization: Bearer TOKEN`. Errors are problem documents (RFC 9457): see `Problem`.",
    ]
    resource = None
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            if resource != (resource := operation["tags"][0]):
                lines += ["", f"## {resource.capitalize()}"]
            lines += ["", f"### `{method.upper()} {path}`", "", operation.get("description") or operation["summary"]]
            lines += parameters(operation.get("parameters", []))
            for content in operation.get("requestBody", {}).get("content", {}).values():
                lines += ["", f"Body: {kind(content['schema'])}"]
            lines += ["", "| Status | Body |", "|---|---|"]
            for status, answer in operation["responses"].items():
                bodies = [kind(one.get("schema", {})) for one in answer.get("content", {}).values()]
                lines += [f"| {status} | {cell(' or '.join(dict.fromkeys(bodies)) or answer['description'])} |"]
    lines += ["", "## Objects"]
    for name, schema in api["components"]["schemas"].items():
        lines += ["", f"### {name}", "", schema.get("description", "")]
        if "properties" in schema:
            lines += ["", "| Field | Type | Description |", "|---|---|---|"]
            for field, one in schema["properties"].items():
                lines += [f"| `{field}` | {cell(kind(one))} | {cell(one.get('description', ''))} |"]
        elif "enum" in schema:
            lines += ["", kind(schema)]
    return "\n".join(lines) + "\n"


def parameters(found: list[dict[str, Any]]) -> Iterator[str]:
    """The table of a route's parameters."""
    if found:
        yield from ("", "| Parameter | In | Type | Description |", "|---|---|---|---|")
    for one in found:
        name = f"`{one['name']}`" + ("" if one.get("required") else " (optional)")
        yield f"| {name} | {one['in']} | {cell(kind(one['schema']))} | {cell(one.get('description', ''))} |"


def kind(schema: dict[str, Any]) -> str:
    """What a value may be, in one line, with links to objects."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if several := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(map(kind, several)))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any")


def cell(text: str) -> str:
    """A text as a table's cell."""
    return " ".join(text.replace("|", "\\|").split())
