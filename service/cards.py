"""Cards: the HTML with which notebooks show answers. Every value is escaped."""

from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 300
"""Characters shown of a list or an object, which may have thousands of items."""

TEMPLATE = """\
<div style="border: 1px solid #8886; border-radius: 6px; padding: 0.6em 1em; width: fit-content; max-width: 100%">
<strong>{{ title }}</strong>{% if url %} <a href="{{ url }}" target="_blank" rel="noopener">{{ url }}</a>{% endif %}
{% if progress is not none %}
<div><progress value="{{ progress }}" max="1" style="width: 16em"></progress> {{ doing }}</div>
{% endif %}
{% if facts %}
<table>
{% for name, value in facts.items() %}
<tr><th style="text-align: left; white-space: nowrap">{{ name }}</th><td style="text-align: left">{{ value }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if rows %}
<table>
<tr>{% for name in rows[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
</div>
"""


def card(
    title: str,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]] = (),
    url: str | None = None,
    progress: float | None = None,
    doing: str = "",
) -> str:
    """The card of an answer: title, link, progress bar with a text, facts, and a table of `rows`."""
    from jinja2 import Environment  # a program that shows no card does not load it

    shown = {name: _shown(value) for name, value in facts.items() if value not in (None, "", [], {})}
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    return template.render(title=title, facts=shown, rows=rows, url=url, progress=progress, doing=doing)


def _shown(value: Any) -> str:
    """A value as text, with separators between thousands."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        told = value if isinstance(value, str) else repr(value)
        return told if len(told) <= LONGEST or isinstance(value, str) else f"{told[:LONGEST]}…"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
