"""A newcomer's first hour, run: `make tour DATA=FOLDER` takes a folder of photos to a network by the commands of
docs/tour.md, and makes the pictures that the page shows.

The page is the script. Every indented line that begins with `yoso` or `python` is run as it stands, in a folder where
`photos` is DATA. A picture below a block shows what its commands print (.svg) or the search's page (.webp), or is the
file of that name which they wrote. `--record` writes the pictures to docs/tour.
"""

import argparse
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console as Terminal
from rich.text import Text
from sklearn.datasets import load_sample_images

from service import proxies, terminal
from service.client import Client
from service.demo import fresh, with_service
from service.terminal import Console
from tests import browsing
from tools import screenshots

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "tour.md"
RECORDED = DOCS / "tour"
BLOCK = re.compile(r"(?:^    .*\n)+", re.M)
PICTURE = re.compile(r"!\[[^]]*\]\(tour/([^)]+)\)")
NAME, LIVE = "tour", "running.webp"
"""What the page calls its search, and the picture of it that is taken while it runs."""
COLOURED = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0"}
"""Have commands print colours, and of bars only how they end."""
WIDTH, HEIGHT = 100, 900
"""Columns of a recorded terminal, and pixels of a recorded page."""
TILE = 32
"""Pixels of a side of the tiles that sample photographs are cut into."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Failed(Exception):
    """A command of the page that did not succeed."""


def steps(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """The commands of each block of a page that are to be run, and the names of the pictures below it."""
    found = list(BLOCK.finditer(page))
    ends = [*(block.start() for block in found[1:]), len(page)]
    for block, end in zip(found, ends, strict=True):
        lines = [line.strip() for line in block[0].splitlines()]
        commands = [line for line in lines if line.startswith(("yoso ", "python ")) and line != "yoso serve"]
        if commands:
            yield commands, PICTURE.findall(page, block.end(), end)


def sample(folder: Path) -> None:
    """Write tiles of the two photographs that scikit-learn brings, a temple and a flower, into class folders."""
    for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        photo = Image.fromarray(pixels)
        corners = product(range(0, photo.height - TILE + 1, TILE), range(0, photo.width - TILE + 1, TILE))
        for number, (top, left) in enumerate(corners):
            photo.crop((left, top, left + TILE, top + TILE)).save(folder / name / f"{number:03d}.png")


def lay_out(folder: Path, data: Path | None) -> None:
    """Put `photos` into a folder, and one of them as `photo.jpg`."""
    photos = folder / "photos"
    if data is None:
        sample(photos)
    else:
        photos.symlink_to(data.resolve(), target_is_directory=True)
    images = (Path(at) / name for at, _, names in os.walk(photos) for name in sorted(names))
    one = next(path for path in images if path.suffix.lower() in SUFFIXES)
    Image.open(one).convert("RGB").save(folder / "photo.jpg", quality=95)


def draw(told: str, path: Path) -> None:
    """Write what commands printed, with the colours of a terminal, as a picture."""
    shown = Terminal(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    shown.print(Text.from_ansi(told.rstrip()), soft_wrap=False)
    # rich's own template takes its font from another host.
    template = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S)
    svg = shown.export_svg(title="", code_format=template, unique_id=path.stem)
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


def shoot(browser: Browser, client: Client, path: Path) -> None:
    """A picture of the search's page as it is."""
    context = browser.new_context(
        base_url=client.url, viewport={"width": 1280, "height": HEIGHT}, reduced_motion="reduce"
    )
    page = context.new_page()
    answer = page.goto(client.login_link(f"/searches/{client.find(NAME, 'search')['id']}")["url"])
    if answer is None or not answer.ok:
        raise Failed(f"the page of the search: {answer and answer.status}")
    screenshots.shoot(page, path, HEIGHT)
    context.close()


def halfway(browser: Browser, client: Client, path: Path) -> None:
    """A picture of the search's page, once, when a part of the work is done."""
    if not path.exists() and client.find(NAME, "search")["progress"] > 0.4:
        shoot(browser, client, path)


def run(
    command: str, folder: Path, environment: dict[str, str], console: Console, meanwhile: Callable[[], object]
) -> str:
    """Run a command, calling `meanwhile` every second; returns what it has printed. Raises `Failed`."""
    console.print(f"[bold]$ {command}[/]", highlight=False, soft_wrap=True)
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        shown = 0
        while True:
            ended = process.poll() is not None
            printed.seek(0)
            told = printed.read()
            console.print(Text.from_ansi(told[shown:]), end="", highlight=False, soft_wrap=True)
            shown = len(told)
            if ended:
                break
            meanwhile()
            time.sleep(1)
    if process.returncode != 0:
        raise Failed(f"{command}: exit code {process.returncode}")
    return told


def tour(console: Console, folder: Path, client: Client, pictures: Path) -> int:
    """Run the page's commands and make its pictures; returns the exit code."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"YOSO_URL": client.url, "PATH": path, "COLUMNS": str(WIDTH)} | COLOURED
    begun = time.monotonic()
    with browsing.chromium() as browser:
        live = partial(halfway, browser, client, pictures / LIVE)
        for commands, wanted in steps(PAGE.read_text()):
            told = ""
            for command in commands:
                printed = run(command, folder, environment, console, live if "watch" in command else lambda: None)
                told += f"\x1b[1m$ {command}\x1b[0m\n{printed}"
            for name in wanted:
                if name.endswith(".svg"):
                    draw(told, pictures / name)
                elif (folder / name).exists():
                    shutil.copyfile(folder / name, pictures / name)
                elif name != LIVE:
                    shoot(browser, client, pictures / name)
    minutes = (time.monotonic() - begun) / 60
    console.print(f"{minutes:.0f} minutes. The network is in [bold]{folder / 'networks'}[/], pictures in {pictures}")
    return 0


def main() -> int:
    """Take the tour; returns 0 if every command succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="a folder of photos, one folder for each class")
    parser.add_argument("--record", action="store_true", help="write the pictures to docs/tour")
    asked = parser.parse_args()
    if asked.data is not None and not asked.data.is_dir():
        parser.error(f"DATA: no such folder: {asked.data}")
    terminal.prepare()
    proxies.spare_loopback()
    # Pictures for the docs show no folders of whoever records them.
    folder = fresh(Path(tempfile.gettempdir() if asked.record else ".") / "yoso-tour").resolve()
    lay_out(folder, asked.data)
    pictures = RECORDED if asked.record else folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for old in pictures.iterdir():
        old.unlink()
    try:
        return with_service(folder, lambda console, folder, client: tour(console, folder, client, pictures))
    except Failed as failed:
        Console(stderr=True).print(f"[red]{failed}[/]", highlight=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
