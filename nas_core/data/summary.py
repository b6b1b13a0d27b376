"""What was found of a dataset, in few words: the same in the specification, the result, the card and on every page.

`summarise` keeps of an inspection's report what a search takes along, bounded however large the dataset is;
`in_words` says it to people.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from nas_core.wording import number_of

MOST_CLASSES = 100
"""Classes whose images are counted one by one; of more, the smallest and the largest are."""
MOST_KINDS = 12
"""Reasons, sizes, modes and warnings of each kind that are told."""
MOST_EXAMPLES = 3
LONGEST = 300
"""Characters of a text, such as a path."""


def summarise(report: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a report (`nas_core.data.inspection.Inspection.to_dict`), as JSON values of at most a few
    kilobytes."""
    counts: Mapping[str, Mapping[str, int]] = report["counts"]
    summary: dict[str, Any] = {
        name: report[name]
        for name in ("kind", "channels", "image_size", "decoding", "fingerprint", "images", "examined")
    }
    summary["layout"] = _cut(report["layout"])
    summary["classes"] = len(report["class_names"])
    summary["parts"] = {part: sum(of.values()) for part, of in counts.items()}
    summary["counts"] = {part: _classes(of) for part, of in counts.items()}
    for name in ("sizes", "modes", "bit_depths", "orientations"):
        summary[name] = dict(list(report[name].items())[:MOST_KINDS])
        summary[name + "_more"] = max(0, len(report[name]) - MOST_KINDS)
    summary["left_out"] = [
        {"reason": _cut(one["reason"]), "count": one["count"], "examples": _examples(one["examples"])}
        for one in report["left_out"][:MOST_KINDS]
    ]
    summary["left_out_more"] = sum(one["count"] for one in report["left_out"][MOST_KINDS:])
    for name in ("duplicates", "nearly_identical"):
        summary[name] = {where: _found(found) for where, found in report[name].items()}
    summary["constant"] = _found(report["constant"])
    summary["notes"] = [_cut(note) for note in report["notes"][:MOST_KINDS]]
    summary["warnings"] = [_cut(warning) for warning in report["warnings"][:MOST_KINDS]]
    summary["warnings_more"] = max(0, len(report["warnings"]) - MOST_KINDS)
    return summary


def _classes(counts: Mapping[str, int]) -> dict[str, int]:
    if len(counts) <= MOST_CLASSES:
        return {_cut(name): count for name, count in counts.items()}
    ends = (min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__))
    return {_cut(name): counts[name] for name in ends}


def _found(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"count": found["count"], "examples": [_examples(group) for group in found["examples"][:MOST_EXAMPLES]]}


def _examples(paths: Iterable[str]) -> list[str]:
    return [_cut(path) for path in list(paths)[:MOST_EXAMPLES]]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def in_words(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a summary says, as headings and sentences; more than one may stand under a heading."""
    said = [("Layout", summary["layout"]), ("Images", _images(summary)), ("Decoding", _decoding(summary))]
    if summary["examined"]:
        said.append(("Looked at", _looked_at(summary)))
    said += [("Left out", _left_out(one)) for one in summary["left_out"]]
    if summary["left_out_more"]:
        said.append(("Left out", f"{number_of(summary['left_out_more'], 'file')} for other reasons"))
    said += [("Done", note) for note in summary["notes"]]
    said += [("Warning", warning) for warning in summary["warnings"]]
    if summary["warnings_more"]:
        said.append(("Warning", f"and {summary['warnings_more']} more"))
    return said


def _images(summary: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{count:,} in {part}" for part, count in summary["parts"].items())
    told = f"{summary['images']:,}" + (f" ({parts})" if parts else "")
    if not summary["classes"]:
        return told
    for part, counts in summary["counts"].items():
        if counts:
            least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            told += f" of {number_of(summary['classes'], 'class')}; in {part} "
            if counts[least] == counts[most]:
                return f"{told}{counts[least]:,} of each"
            return f"{told}from {counts[least]:,} ({least}) to {counts[most]:,} ({most})"
    return told


def _decoding(summary: Mapping[str, Any]) -> str:
    decoding, size = summary["decoding"], summary["decoding"]["size"]
    colour = "grey" if decoding["channels"] == 1 else "colour"
    return f"{size} × {size} pixels in {colour}"


def _looked_at(summary: Mapping[str, Any]) -> str:
    of = "all" if summary["examined"] == summary["images"] else f"{summary['examined']:,} of"
    told = [f"{of} {summary['images']:,} images"]
    for name, what in (("sizes", "pixels"), ("modes", ""), ("bit_depths", "bits"), ("orientations", "")):
        counts = summary[name]
        if name == "orientations":
            turned = sum(count for orientation, count in counts.items() if orientation != "1")
            told += [f"{turned:,} turned as their orientation says"] if turned else []
            continue
        shown = ", ".join(f"{one} {what}".strip() + f" ({count:,})" for one, count in list(counts.items())[:4])
        more = len(counts) - 4 + summary[name + "_more"]
        told.append(shown + (f" and {more:,} more" if more > 0 else ""))
    return "; ".join(told)


def _left_out(one: Mapping[str, Any]) -> str:
    examples = f", such as {', '.join(one['examples'])}" if one["examples"] else ""
    return f"{number_of(one['count'], 'file')}: {one['reason']}{examples}"
