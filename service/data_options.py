"""The command line's options that say how the images of a folder are read, the same for every command."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

HELP = "How the dataset is read"
OPTIONS: dict[str, Any] = {
    "train": Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help='The folder below DATASET with the training classes; "." is DATASET itself.',
            rich_help_panel=HELP,
        ),
    ],
    "test": Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The folder with the test classes.", rich_help_panel=HELP)
    ],
    "validation": Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The folder with the validation classes.", rich_help_panel=HELP)
    ],
    "ignore": Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help='Leave out matching files and folders, such as "*.gif" or old; may be repeated.',
            rich_help_panel=HELP,
        ),
    ],
    "channels": Annotated[
        int | None, typer.Option(help="1 for grey, 3 for colour (default: as in the images).", rich_help_panel=HELP)
    ],
    "image_size": Annotated[
        int | None,
        typer.Option(help="Height and width that images are scaled to, in pixels.", rich_help_panel=HELP),
    ],
    "background": Annotated[
        str | None,
        typer.Option(
            metavar="COLOUR", help="The colour behind transparent pixels (default: white).", rich_help_panel=HELP
        ),
    ],
}  # fmt: skip
"""By the names of the request's field `data`."""


def reads_data(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the `OPTIONS`; it gets those that are set as one dictionary, `data`."""

    @functools.wraps(command)
    def called(**given: Any) -> None:
        data = {name: value for name in OPTIONS if (value := given.pop(name)) not in (None, [])}
        command(**given, data=data)

    own = inspect.signature(command, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    kept = [one.replace(kind=keyword) for one in own.parameters.values() if one.name != "data"]
    added = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in OPTIONS.items()]
    called.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in (*kept, *added)} | {"return": None}
    return called
