"""What a search takes along of an inspection: bounded, and the same words everywhere."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from nas_core.data.inspection import inspect
from nas_core.data.summary import in_words, summarise


def report(folder: Path) -> dict[str, Any]:
    for label in ("cat", "dog"):
        for part in ("Training", "Testing"):
            (folder / part / label).mkdir(parents=True)
            for number in range(9):
                Image.effect_noise((16, 12), 80).save(folder / part / label / f"{number}.png")
    (folder / "Training" / "notes.txt").write_text("words")
    return inspect(str(folder), anywhere=True).to_dict()


def test_it_says_how_a_dataset_was_read_and_what_is_left_out(tmp_path: Path) -> None:
    summary = summarise(report(tmp_path))
    said = in_words(json.loads(json.dumps(summary)))
    assert ("Images", "36 (18 in train, 18 in test) of 2 classes; in train 9 of each") in said
    assert ("Decoding", "12 × 12 pixels in grey") in said
    assert any(heading == "Left out" and "1 file: " in words and "notes.txt" in words for heading, words in said)
    assert any(heading == "Done" and "cropped" in words for heading, words in said)


def test_it_stays_small_however_large_the_dataset_is(tmp_path: Path) -> None:
    found = report(tmp_path)
    names = [f"class {number} " + "x" * 200 for number in range(20_000)]
    found["class_names"] = names
    found["counts"] = {part: {name: number for number, name in enumerate(names)} for part in ("train", "test")}
    found["sizes"] = {f"{number}×1": 1 for number in range(50_000)}
    found["left_out"] = [{"reason": f"{n}" * 900, "count": 2, "examples": ["y" * 9000] * 5} for n in range(500)]
    found["warnings"] = ["z" * 10_000] * 1000
    summary = summarise(found)
    assert len(json.dumps(summary)) < 60_000
    said = in_words(summary)
    assert len(said) < 60 and all(len(words) < 3000 for _, words in said)
    assert ("Left out", "976 files for other reasons") in said
    assert summary["classes"] == 20_000
