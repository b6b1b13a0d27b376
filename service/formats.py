"""How pages and terminal write numbers and times."""

from collections.abc import Mapping
from typing import Any


def short(number: float) -> str:
    """A count in at most three digits: 1.48G, 600M, 297k."""
    for limit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{float(f'{number / limit:.3g}'):g}{suffix}"
    return f"{number:g}"


def in_bytes(number: float) -> str:
    """A number of bytes in at most three digits: 12.5 GB, 600 MB, 20 kB; a GB is 10^9."""
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= size:
            return f"{float(f'{number / size:.3g}'):g} {unit}"
    return f"{number:g} bytes"


def exact(number: int) -> str:
    """A count in full: 297,294."""
    return f"{number:,}"


def at_most(limits: Mapping[str, float]) -> list[str]:
    """The limits of a search in words: at most 20,000 parameters, at most 2.5 ms."""
    words = {"parameters": " parameters", "activations": " activations at once", "latency_ms": "\N{NO-BREAK SPACE}ms"}
    return [f"at most {limit:,}{words[name]}" for name, limit in limits.items()]


def rival(data: Mapping[str, Any]) -> str:
    """Which of the networks for a budget a line or a result is about, in finals: `, seed 1` or `, random, seed 0`."""
    if "trial" not in data:
        return ""
    if data.get("label") is not None:
        return f", {data['label']}"
    origin = "" if data["origin"] == "search" else f", {data['origin']}"
    return f"{origin}, seed {data['seed']}"


def percent(share: float, digits: int = 1) -> str:
    """A share as 98.6 %, with a space that does not break."""
    return f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def duration(seconds: float, most: int = 2) -> str:
    """A span of time in its largest units, `most` of them: 42 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    whole = max(0, round(seconds))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, whole = divmod(whole, size)
        if number or parts:
            parts.append(f"{number}\N{NO-BREAK SPACE}{unit}" if number else "")
        if len(parts) == most:
            break
    return " ".join(filter(None, parts)) or "0\N{NO-BREAK SPACE}s"


def deadlines(max_wait: float | None, max_run: float | None) -> str:
    """How long a search may wait and run: starts within 2 h, runs for at most 12 h; empty where it has no deadlines."""
    starts = f"starts within {duration(max_wait)}" if max_wait is not None else ""
    runs = f"runs for at most {duration(max_run)}" if max_run is not None else ""
    return ", ".join(filter(None, (starts, runs)))
