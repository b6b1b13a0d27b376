"""What the Python clients return, as notebooks and programs use it, from a real service."""

import ast
import asyncio
import json
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.axes import Axes

from nas_core.errors import InvalidValue
from service import answers, objects
from service.cards import card
from service.client import Client
from service.domain.lifecycle import Status
from tests import seeding

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "examples/first_search.ipynb"
MADE = [
    ("docs/python.md", ["networks.png", "networks/300000/network.onnx", "networks/600000/network.onnx", "front.png"]),
    ("README.md", ["yoso-*/300000/network.onnx", "yoso-*/600000/network.onnx"]),
]
"""The files that the Python of a page writes."""
KINDS = [one for one in vars(answers).values() if isinstance(one, type) and issubclass(one, answers.Answer)]
NAMES = sorted({name for kind in KINDS for name in answers.fields(kind)})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inside, max_size=4)
    ),
    max_leaves=20,
)


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database only: what is under test here speaks HTTP and knows none."""
    return seeding.sqlite_url(tmp_path)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as made:
        yield made


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plots need no display, and are closed."""
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


class Tags(HTMLParser):
    """The tags of a piece of HTML, with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Any]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(JSON, st.sampled_from(KINDS))
def test_what_a_service_says_is_kept_whatever_release_it_is_of(told: Any, kind: type) -> None:
    for meant in (kind, list[kind], answers.SearchPage, answers.DatasetReport | answers.Looking):  # type: ignore[valid-type]
        assert answers.read(meant, told) == told


@given(st.text())
def test_a_card_has_no_tags_but_its_own(nasty: str) -> None:
    def shown(text: str) -> list[Any]:
        made = card(text, {"name": text, "list": [text]}, [{"a": text}], doing=text, progress=0.5)
        return Tags(made).tags

    assert shown(f"x{nasty}") == shown("x") and shown(f"x<script>{nasty}'\"") == shown("x")


def test_fields_are_attributes_and_keys(client: Client, seeds: dict[str, str]) -> None:
    search = client.get(seeds["succeeded"])
    assert search.status == search["status"] == "succeeded"
    assert "status" in dir(search) and repr(search).startswith(f"Search(id={search.id!r}, name='first steps', status=")
    assert json.loads(json.dumps(search)) == search == client.list(status="succeeded")["items"][0]
    assert isinstance(client.list()["items"][0], objects.Search) and isinstance(search.networks[0], objects.Network)
    assert client.find("first steps", "search").networks[1].onnx["onnx"].bytes == 40_000
    with pytest.raises(AttributeError, match="'Search' object has no attribute 'stauts'; did you mean 'status'"):
        getattr(search, "stauts")  # noqa: B009
    with pytest.raises(AttributeError, match="cannot be assigned"):
        search.status = "queued"  # type: ignore[misc]


def test_cards_show_what_goes_on_and_escape_what_users_give(client: Client, seeds: dict[str, str]) -> None:
    html = {state: client.get(search_id)._repr_html_() for state, search_id in seeds.items()}
    assert "search 30\xa0%" in Tags(html["running"]).text, html["running"]
    assert "the worker was killed: out of memory" in html["failed"] and "98.7\xa0%" in html["succeeded"]
    assert f'<a href="{client.url}/searches/{seeds["queued"]}"' in html["queued"]
    assert "<b>later</b>" in Tags(html["queued"]).text and "<b>" not in html["queued"]
    assert "11,525" in client.get(seeds["succeeded"]).networks[0]._repr_html_()
    assert "supernet_multiply_adds" in client.estimate("digits", ["300k"])._repr_html_()


def test_a_network_brings_a_file(client: Client, seeds: dict[str, str], tmp_path: Path) -> None:
    network = client.get(seeds["succeeded"]).networks[0]
    assert network.fetch("network.onnx", tmp_path).read_bytes() == b"onnx"
    assert network.fetch("onnx_int8", tmp_path / "small.onnx") == tmp_path / "small.onnx"
    with pytest.raises(InvalidValue, match=r"did you mean 'network\.onnx'"):
        network.fetch("network.onx", tmp_path)
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"network.onnx", "small.onnx"}


def test_a_sweep_is_a_table_and_a_plot(client: Client, app: FastAPI) -> None:
    sweep = client.sweep(seeding.seed_sweep(app, name="<i>night</i>"))
    assert "<i>night" in Tags(sweep._repr_html_()).text and '<progress value="0.66' in sweep._repr_html_()
    frame = sweep.to_frame()
    assert list(frame["on_front"]) == [point.on_front for point in sweep.front().points] and len(frame) == 8
    assert sweep.front()._repr_html_().count("●") == 7
    plotted = sweep.plot()
    assert (plotted.get_xlabel(), plotted.get_ylabel()) == ("multiply-adds", "accuracy")
    [best, others] = plotted.containers
    assert len(best[0].get_xdata()) == 7 and len(others[0].get_xdata()) == 1
    assert [one.status for one in sweep.each_search()].count("succeeded") == 1
    sweep.cancel()
    sweep.wait(quiet=True)
    assert sweep.done and sweep.counts["cancelled"] == 1


def test_what_is_not_there_is_told(client: Client, seeds: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValue, match="no networks to draw: the search is queued"):
        client.get(seeds["queued"]).plot()
    for module in ("pandas", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, module, None)
    search = client.get(seeds["succeeded"])
    with pytest.raises(ImportError, match="pip install pandas"):
        search.to_frame()
    with pytest.raises(ImportError, match="pip install matplotlib"):
        search.plot()


@pytest.fixture
def played(app: FastAPI, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every search that is submitted succeeds soon, in an empty folder and with the service where clients look."""
    monkeypatch.setenv("YOSO_URL", url)
    monkeypatch.chdir(tmp_path)
    over = threading.Event()

    def play() -> None:
        while not over.wait(0.01):
            for search in seeding.parts(app).searches.page(9)[0]:
                if search.status == Status.QUEUED:
                    seeding.Run(app, search.id).succeed()

    player = threading.Thread(target=play)
    player.start()
    yield
    over.set()
    player.join()


def test_the_example_notebook_runs(played: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Each cell as a notebook runs it, and what the last line of a cell is, it can show."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        assert cell["outputs"] == []
        *lines, last = ast.parse("".join(cell["source"])).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(lines, []), str(NOTEBOOK), "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names))
    names["client"].close()
    search, waited, ended, frame, plotted, path = shown
    assert isinstance(search, objects.Search) and waited is None and ended is search
    assert search.status == "succeeded" and "succeeded 100\xa0%" in capsys.readouterr().err
    assert list(frame["budget"]) == seeding.BUDGETS and isinstance(plotted, Axes)
    assert path.read_bytes() == b"onnx" and path.parent == Path()


@pytest.mark.parametrize("page, made", MADE, ids=["page", "readme"])
def test_what_pages_say_in_python_runs(page: str, made: list[str], played: None) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S):
        exec(compile(block, page, "exec"), names)
    if "submit" in names:
        with ThreadPoolExecutor(1) as pool:  # the browser's tests leave a loop running in this thread
            pool.submit(asyncio.run, names["submit"]()).result()
    names["client"].close()
    for pattern in made:
        assert len([*Path().glob(pattern)]) == 1, pattern
