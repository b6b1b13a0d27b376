"""Run folders as the service reads and writes them, where a file may be torn, odd or gone."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_core.files import FILES, set_apart
from service.folders.model import Asked, BadFolder, lines, result
from service.folders.runs import Runs, TornFile
from tests import seeding

LINES: list[dict[str, Any]] = [
    {"time": 1.5, "attempt": 1, "kind": "started", "workers": 1, "host": "node-1", "note": "näch\u2028ste"},
    {"time": 2.5, "attempt": 1} | seeding.epoch("search", 1, 30, 0.5),
    {"time": 3.5, "attempt": 1} | seeding.epoch("search", 2, 30, 0.75),
]
CHUNK = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES).encode()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
)


@pytest.fixture(params=["local", "memory"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Runs:
    return Runs(str(tmp_path) if request.param == "local" else f"memory://{tmp_path}")


def chunk(runs: Runs, name: str, content: bytes) -> None:
    runs.write("s", f"journal/{name}", content)


def test_what_was_written_is_read(runs: Runs) -> None:
    for budgets in ([1], [2]):
        runs.write_spec("s", {"attempt": 1, "budgets": budgets}, ("/data",))
    assert runs.read_json("s", "spec.json") == {
        "attempt": 1,
        "budgets": [1],
        "version": 1,
        "search_id": "s",
        "data_roots": ["/data"],
    }
    runs.write("s", "some.json", b"other")
    assert runs.read("s", "some.json") == b"other"
    assert [runs.tail("s", "some.json", size) for size in (2, 5, 99)] == [b"er", b"other", b"other"]
    with pytest.raises(FileNotFoundError):
        runs.read("s", "none")
    with pytest.raises(FileNotFoundError):
        runs.tail("s", "none", 9)


def test_only_event_files_are_found_for_tensorboard(runs: Runs) -> None:
    assert runs.event_files("s") == []
    part = "events.out.tfevents.0001-000001"
    for name in (f"search/{part}", f"networks/300/{part}", f"networks/300-1-thin/{part}", "search/other", f"A/{part}"):
        runs.write("s", f"tensorboard/{name}", b"events")
    assert runs.event_files("s") == [f"networks/300/{part}", f"networks/300-1-thin/{part}", f"search/{part}"]


def test_a_chunk_is_read_behind_the_cursor_and_in_order(runs: Runs) -> None:
    assert list(runs.chunks("s", "")) == []
    for name in ("0002-000001.jsonl", "0001-000010.jsonl", "0001-000002.jsonl", "0001-000002.jsonl.1.tmp"):
        chunk(runs, name, CHUNK)
    assert list(runs.chunks("s", "")) == [
        (name, LINES) for name in ("0001-000002.jsonl", "0001-000010.jsonl", "0002-000001.jsonl")
    ]
    assert [name for name, _ in runs.chunks("s", "0001-000010.jsonl")] == ["0002-000001.jsonl"]


def test_a_file_appears_whole_even_where_several_write_it(tmp_path: Path) -> None:
    runs, contents = Runs(str(tmp_path)), [bytes([n]) * 300_000 for n in range(4)]

    def write(content: bytes) -> None:
        for _ in range(20):
            runs.write("s", "spec.json", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    runs.write("s", "spec.json", contents[0])
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert runs.read("s", "spec.json") in contents
    for thread in threads:
        thread.join()
    assert [path.name for path in (tmp_path / "searches/s").iterdir()] == ["spec.json"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    runs = Runs(str(tmp_path))
    (tmp_path / "searches/s/result.json").mkdir(parents=True)
    with pytest.raises(OSError):
        runs.write("s", "result.json", b"{}")
    assert [path.name for path in (tmp_path / "searches/s").iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    "content", [b"", b'{"a": 1', b"[]", b"null", b'{"a": NaN}', b'{"a": 1e999}', b"\xff", b"[" * 9999]
)
def test_a_file_without_a_whole_object_is_torn(runs: Runs, content: bytes) -> None:
    assert runs.read_json("s", "result.json") is None
    runs.write("s", "result.json", content)
    with pytest.raises(TornFile, match=r"s/result\.json"):
        runs.read_json("s", "result.json")


@given(st.integers(0, len(CHUNK)))
def test_a_chunk_cut_off_at_any_byte_yields_its_whole_lines_and_tells_of_the_other(length: int) -> None:
    cut = CHUNK[:length]
    ends = [end for end, byte in enumerate(CHUNK) if byte == ord("\n")]
    whole = sum(end <= length for end in ends)
    expected = LINES[:whole]
    if length > (ends[whole - 1] + 1 if whole else 0):
        time = LINES[whole - 1]["time"] if whole else 0
        expected = [*expected, {"kind": "torn", "time": time, "file": "c", "line": whole + 1}]
    assert lines("c", cut) == expected


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[1]",
        b'"text"',
        b"{}",
        b'{"kind": "epoch"}',
        b'{"time": 1}',
        b'{"kind": 3, "time": 1}',
        b'{"kind": "e", "time": "1"}',
        b'{"kind": "e", "time": true}',
        b'{"kind": "e", "time": NaN}',
        b'{"kind": "e", "time": 1, "loss": Infinity}',
        b"\xe4",
    ],
)
def test_a_bad_line_is_told_where_it_stood(runs: Runs, bad: bytes) -> None:
    first, second, third = CHUNK.splitlines()
    chunk(runs, "0001-000001.jsonl", b"\n".join([bad, first, bad, second, bad, third]))
    (_, found), *_ = runs.chunks("s", "")
    told = {"kind": "torn", "file": "0001-000001.jsonl"}
    assert found[0] == told | {"time": 0, "line": 1}
    assert found[2] == told | {"time": 1.5, "line": 3}
    assert found[4] == told | {"time": 2.5, "line": 5}
    assert found[1::2] == LINES


@given(st.lists(values.map(lambda one: json.dumps(one).encode()) | st.binary()))
def test_whatever_a_chunk_holds_every_line_has_a_kind_and_a_time_and_is_json(texts: list[bytes]) -> None:
    try:
        told = lines("c", b"\n".join(texts))
    except BadFolder:
        return
    for line in told:
        assert isinstance(line["kind"], str) and line["time"] >= 0
        json.dumps(line, allow_nan=False)
    assert len(told) == len(b"\n".join(texts).removesuffix(b"\n").split(b"\n")) or not b"\n".join(texts)


def test_what_a_result_tells_of_new_kinds_of_files_is_sorted_and_what_nobody_knows_is_named() -> None:
    files, missing = {"card": FILES["card"], "onnx_int8": FILES["onnx_int8"]}, {"onnx_fp16": "no such operator"}
    told = seeding.result(300_000) | set_apart({"budget": 300_000, "files": files, "not_exported": missing})
    assert told["files"] == {"card": FILES["card"]} and told["not_exported"] == {}, "the last release refuses others"
    told["files"]["tflite"] = "network.tflite"
    told["onnx"] = {"onnx_int4": seeding.ONNX["onnx_int8"]}
    [found] = result("result.json", {"architectures": [told]}, Asked([300_000]))["architectures"]
    assert (found["files"], found["not_exported"], found["onnx"]) == (files, missing, {})
    assert "of_new_kinds" not in found
    assert found["warnings"] == [
        "Its worker wrote files of kinds that this release of Yoso does not know: tflite, onnx_int4."
    ]
