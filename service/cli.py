"""The command line: `yoso`."""

import json
import os
import re
import shlex
import signal
import sys
import time
import traceback
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.markup import escape

from nas_core.data.datasets import DATASETS
from nas_core.errors import InvalidValue
from nas_core.files import FILES
from nas_core.spec import SearchSpec
from nas_core.version import __version__
from nas_core.wording import number_of
from service import formats, profiles, proxies, terminal
from service.answers import ENDED, Search, Sweep
from service.client import POLL_SECONDS, Client, ClientError, Unreachable, default_url, token_for
from service.data_options import reads_data
from service.formats import at_most
from service.request_options import (
    Asked,
    Baselines,
    Budgets,
    baselines_of,
    deadlines_of,
    describes_search,
    json_or_text,
    placed,
)

if TYPE_CHECKING:
    from service.settings import Settings

app = typer.Typer(
    help="Find compact image networks under a FLOPs budget.",
    epilog="--profile and --debug (which prints the traceback of an error) can be anywhere on the line.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out, err = terminal.Console(), terminal.Console(stderr=True)

PANELS = SEARCHES, SWEEPS, ON_DATA, SERVER, ACCOUNT = "Searches", "Sweeps", "Datasets", "Server", "Account"
"""The panels of `yoso --help`, in their order."""
FAILED, MISUSED, CANCELLED, BUSY, INTERRUPTED = 1, 2, 3, 4, 130
KEPT_SECONDS = 10.0
"""How long after its end a log that is followed may take to be kept."""
EXIT = {"succeeded": 0, "failed": FAILED, "cancelled": CANCELLED}

Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="The service's URL (default: YOSO_URL, else YOSO_HOST and YOSO_PORT, else that of `yoso login`)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def known(context: typer.Context, incomplete: str) -> list[str]:
    """The IDs of the newest searches and sweeps that begin so, for a shell; none where no service answers at once."""
    try:
        with Client(context.params.get("url"), seconds=COMPLETION_SECONDS) as client:
            found = [*client.list(100)["items"], *client.sweeps(100)["items"]]
    except (ClientError, Unreachable, InvalidValue, OSError):
        return []
    return [one["id"] for one in found if one["id"].startswith(incomplete)]


COMPLETION_SECONDS = 2.0
"""How long a shell waits for IDs to complete with."""
Id = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="A search or sweep: its ID, the beginning of it, or its name.", autocompletion=known
    ),
]
SearchId = Annotated[
    str,
    typer.Argument(metavar="ID", help="A search: its ID, the beginning of it, or its name.", autocompletion=known),
]
SweepId = Annotated[
    str,
    typer.Argument(metavar="SWEEP", help="A sweep: its ID, the beginning of it, or its name.", autocompletion=known),
]
Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help=", ".join(DATASETS) + ", or the path of an image folder.")
]
Data = dict[str, Any]
"""What the options of `reads_data` say."""
NewMaxWait = Annotated[
    str | None,
    typer.Option("--max-wait", metavar="TIME", help="A new limit on the time in the queue, such as 8h, or none."),
]
NewMaxRun = Annotated[
    str | None,
    typer.Option("--max-run", metavar="TIME", help="A new limit on the running time, such as 24h, or none."),
]


def tell_version(asked: bool) -> None:
    """Print what is installed, where that is asked for, and leave."""
    if asked:
        print(f"yoso {__version__}")
        raise typer.Exit


@app.callback()
def yoso(
    version: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use the service saved by `yoso login URL --profile NAME`.")
    ] = None,
) -> None:
    """Find compact image networks under a FLOPs budget."""
    profiles.CHOSEN.set(profile)


@app.command(rich_help_panel=SERVER)
def serve(
    no_dispatch: Annotated[
        bool,
        typer.Option("--no-dispatch", help="Serve the API and the dashboard only; `yoso dispatch` launches searches."),
    ] = False,
) -> None:
    """Start the service: API, dashboard, dispatcher and, unless YOSO_RAY_ADDRESS is set, Ray on this machine.

    Settings are environment variables.
    Storage, database and cluster: YOSO_STORAGE, YOSO_DATABASE_URL, YOSO_DATABASE_PASSWORD,
    YOSO_RAY_ADDRESS, YOSO_EXECUTOR, YOSO_RAYJOB_TEMPLATE, YOSO_NODE_GROUPS,
    YOSO_MLFLOW_URI, YOSO_OTLP_URL, YOSO_WEBHOOK_NETWORKS, YOSO_NOTIFY_SCHEMES.
    Addresses: YOSO_HOST, YOSO_PORT, YOSO_PUBLIC_URL, YOSO_ALLOWED_HOSTS.
    Access: YOSO_TOKENS, YOSO_DATA_ROOTS.
    Single sign-on (OIDC): YOSO_OIDC_ISSUER, YOSO_OIDC_CLIENT_ID, YOSO_OIDC_CLIENT_SECRET,
    YOSO_OIDC_GRANTS, YOSO_OIDC_CLAIM, YOSO_OIDC_SCOPES, YOSO_OIDC_NAME.
    Limits: YOSO_MAX_BODY, YOSO_RATE, YOSO_RATE_BURST, YOSO_RATE_STORAGE, YOSO_MAX_STREAMS,
    YOSO_INSPECTION_SECONDS, YOSO_WAITING_SECONDS.
    Retention: YOSO_KEEP_DAYS, YOSO_KEEP_CHECKPOINTS_DAYS, YOSO_KEEP_EVENTS_DAYS,
    YOSO_KEEP_LOGS_DAYS, YOSO_KEEP_AUDIT_DAYS, YOSO_KEEP_DELIVERIES_DAYS.
    Logs: YOSO_LOG_FORMAT (text or json).
    """
    from service import processes

    with refusals(), configured() as settings:
        processes.leave(processes.serve(settings, dispatch=not no_dispatch))


@app.command(rich_help_panel=SERVER)
def dispatch() -> None:
    """Start only a dispatcher, for replicas of `yoso serve --no-dispatch`. On PostgreSQL several share the work.

    Settings are those of `yoso serve`. Without YOSO_RAY_ADDRESS it starts Ray on this machine.
    """
    from service import processes

    with refusals(), configured() as settings:
        processes.leave(processes.dispatch(settings))


@app.command(rich_help_panel=SERVER)
def migrate(
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the database.")] = 0.0,
) -> None:
    """Upgrade the database of YOSO_DATABASE_URL to this release."""
    from service import processes

    with refusals(), configured() as settings:
        processes.migrate(settings, wait)


@app.command(rich_help_panel=SERVER)
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to create (JSON lines, gzip).")],
    as_json: Json = False,
) -> None:
    """Write the database of YOSO_DATABASE_URL and a list of the folders in YOSO_STORAGE to a file.

    The service can keep running. The files of runs are not included.
    """
    from service.backup import backup as write

    with refusals(), configured() as settings:
        made = write(settings, __version__, file)
        told = f"{file} holds {terminal.contents(asdict(made))}"
        tell(asdict(made), as_json, escape(told))


@app.command(rich_help_panel=SERVER)
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `yoso backup` wrote.")],
    as_json: Json = False,
) -> None:
    """Restore a backup of this release or an older one into the empty database of YOSO_DATABASE_URL.

    If it fails, the database stays empty. Afterwards it prints how YOSO_STORAGE differs from the database.
    """
    from service.backup import restore as read

    with refusals(), configured() as settings:
        done = read(settings, file)
        told = [f"restored {terminal.contents(asdict(done.contents))}"]
        if done.revision != done.contents.revision:
            told.append(f"and brought it up to date, to revision {done.revision}")
        if done.missing:
            told.append(f"The folders of {terminal.some(done.missing)} were there then, and are gone.")
        if done.unknown:
            told.append(f"The storage also has {terminal.some(done.unknown)}, which the backup does not know.")
        tell(asdict(done), as_json, escape("\n".join(told)))


@app.command(rich_help_panel=ON_DATA)
@reads_data
def inspect(
    dataset: Dataset,
    data: Data,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet", metavar="FILE.png", help="Save a picture of images as a network would see them."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a dataset on this machine, without a service. Exit code: 0 if a search can use it, otherwise 1."""
    from nas_core.data.inspection import inspect as look
    from service.domain.request import DataRequest

    with refusals():
        asked = DataRequest(**data)
        where = placed(dataset), data_roots(), not data_roots()
        with terminal.Looking(err if as_json else out) as shown:
            found = look(*where, asked.options(), shown.tell, asked.size())
            picture = found.contact_sheet() if sheet and (found.files or found.kind != "folder") else None
        report = found.to_dict()
        tell({"usable": not found.problems} | report, as_json, terminal.report(report))
        if sheet is not None:
            if picture is None:
                raise InvalidValue("--contact-sheet", str(sheet), "there are no image files to show", "an image folder")
            written = sheet.with_name(sheet.name + ".part")
            written.write_bytes(picture)
            written.replace(sheet)
        raise typer.Exit(FAILED if found.problems else 0)


@app.command(rich_help_panel=ACCOUNT)
def login(
    service: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="The service to sign in to; without it, sign in a browser.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Sign in to the service at URL with a token, which is saved for --profile.

    Without URL, print a link that signs in a browser once, with the token that commands send.
    """
    with refusals():
        if service is not None:
            sign_in(service, as_json)
            return
        with Client(url) as client:
            link = client.login_link()
        if as_json:
            print(json.dumps(link))
        else:
            print(link["url"])


def sign_in(service: str, as_json: bool) -> None:
    """Try the token that is typed, or that comes through a pipe, and keep it. Raises `InvalidValue`, `ClientError`."""
    typed = typer.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    secret = typed.strip()
    if not (secret.isascii() and secret.isprintable() and secret and " " not in secret):
        raise InvalidValue("token", "…" if secret else "", "not a token", "one line with the token that you were given")
    with Client(service, secret) as client:
        me, address = client.me(), str(client.http.base_url).rstrip("/")
    name = profiles.chosen_name() or profiles.DEFAULT
    profiles.keep(name, profiles.Profile(address, secret))
    if address.startswith("http:") and not proxies.on_this_machine(address):
        err.print("[yellow]the token goes there unencrypted: use https[/]", highlight=False)
    where = "all projects" if me["project"] == "*" else f"project {me['project']}"
    ends = f", until {terminal.when(me['expires_at'])} UTC" if me["expires_at"] else ""
    told = f"signed in to {address} as {me['name']}: {me['role']} in {where}{ends} (profile {name})"
    tell({"profile": name, "url": address} | me, as_json, escape(told))


@app.command(rich_help_panel=ACCOUNT)
def logout(as_json: Json = False) -> None:
    """Forget the token that `yoso login URL` stored; the token stays valid until it is revoked."""
    with refusals():
        name = profiles.chosen_name() or profiles.DEFAULT
        forgotten = profiles.forget(name)
        tell(
            {"profile": name, "url": forgotten.url}, as_json, escape(f"signed out of {forgotten.url} (profile {name})")
        )


tokens = typer.Typer()
app.add_typer(tokens, name="token", invoke_without_command=True, rich_help_panel=ACCOUNT)
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]


@tokens.callback()
def token(context: typer.Context, url: Url = None) -> None:
    """Print the token that commands send, or create, list and revoke tokens."""
    if context.invoked_subcommand is None:
        show_token(url)
    elif url is not None:
        raise typer.BadParameter("put it behind the command", param_hint="--url")


@tokens.command("show")
def show_token(url: Url = None) -> None:
    """Print the token that commands send: YOSO_TOKEN, else that of `yoso login`, else that of your local service."""
    with refusals():
        address = url or default_url()
        found = token_for(address)
        if found is None:
            told = "no service of yours listens there, and you have not signed in to it"
            raise InvalidValue("--url", address, told, "a service on this machine, or one after `yoso login URL`")
        print(found)


@tokens.command("create")
def create_token(
    name: TokenName,
    role: Annotated[str, typer.Option(help="What the token allows: read, submit or admin.")],
    project: Annotated[
        str | None,
        typer.Option(help="The project that it gives access to, or '*' for all (default: your own token's)."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            help="When it expires: 12h, 90d, 1y, or a date such as 2027-01-31 (default: with your own token)."
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Create a token and print it once. It allows no more than your own."""
    with refusals(), Client(url) as client:
        made = client.make_token(name, role, project, expires)
        if as_json:
            print(json.dumps(made))
        else:
            ends = f", until {terminal.when(made['expires_at'])} UTC" if made["expires_at"] else ""
            told = f"{made['name']} may {made['role']} in {made['project']}{ends}; keep it, it is shown once:"
            err.print(escape(told), highlight=False, soft_wrap=True)
            print(made["token"])


@tokens.command("list")
def list_tokens(
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="The maximum number to list.")] = 100,
    after: Annotated[str | None, typer.Option(help="Start after this name.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List tokens by name: what they allow, when they expire, and when they were last used."""
    with refusals(), Client(url) as client:
        page = client.tokens(limit, after, project)
        tell_page(page, as_json, terminal.tokens, "no tokens", "there are more")


@tokens.command("revoke")
def revoke_token(name: TokenName, url: Url = None, as_json: Json = False) -> None:
    """Revoke a token and the browser sessions started with it."""
    with refusals(), Client(url) as client:
        revoked = client.revoke_token(name)
        tell(revoked, as_json, f"revoked token {escape(name)}")


@app.command(rich_help_panel=SEARCHES)
@describes_search()
def submit(
    asked: Asked,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the search to end, and show its progress.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how long it is expected to take; queue nothing.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Queue a search."""
    with refusals(), Client(url) as client:
        body = asked()
        look_first(client, body, as_json)
        if dry_run or not as_json:
            expected = client.estimate(**body)
            tell(expected, as_json, terminal.expected(expected))
        if dry_run:
            return
        search = client.submit(**body)
        if not as_json:
            out.print("".join(f"{escape(note)}\n" for note in search["notes"]), end="", highlight=False)
        if wait:
            follow(client, search["id"], as_json)
        elif as_json:
            print(json.dumps(search))
        else:
            out.print(f"queued search [bold]{search['id']}[/]; `yoso watch {search['id']}` follows it", highlight=False)
            out.print(
                f"its page: {client.url}{page_of(search)} (`yoso open {search['id']}`)", markup=False, soft_wrap=True
            )


@app.command(rich_help_panel=SWEEPS)
@describes_search("seed", "candidates")
def sweep(
    asked: Asked,
    budgets: Annotated[
        str | None,
        typer.Option(metavar="FROM:TO:COUNT", help="Budgets at equal ratios, such as 100k:800k:8."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2; one search for each (default: 0).")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=V,V", help="Values of a field, such as space.share=true,false; may be repeated."),
    ] = None,
    independent: Annotated[
        bool, typer.Option("--independent", help="One search for each budget instead of one for all.")
    ] = False,
    finals: Annotated[
        bool | None,
        typer.Option(
            "--finals/--no-finals",
            help="Retrain the networks of all searches and deliver the best. Default: only with several seeds.",
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Queue searches over budgets, seeds and a grid. The request in --file is that of a sweep."""
    with refusals(), Client(url) as client:
        body = asked(of_sweep)
        if budgets is not None and "budgets" not in asked(of_sweep, file=False):
            body["budgets"] = budget_range(budgets)
        elif budgets is not None or not body.get("budgets"):
            raise InvalidValue("--budgets", budgets, "one of --budget and --budgets is needed", "100k:800k:8")
        if seeds is not None:
            body["seeds"] = [int(seed) if seed.strip().isdigit() else seed for seed in seeds.split(",")]
        if varying := dict(map(varied, grid or ())):
            body["grid"] = body.get("grid", {}) | varying
        body |= {"strategy": "independent"} if independent else {}
        body |= {"finals": finals} if finals is not None else {}
        look_first(client, body["search"], as_json)
        made = client.submit_sweep(**body)
        if as_json:
            print(json.dumps(made))
        else:
            finally_ = f" and {sum(made['finals'].values())} finals" if made["finals"] else ""
            told = f"queued sweep [bold]{made['id']}[/] of {number_of(made['searches'], 'search')}{finally_}"
            out.print("\n".join([told, *map(escape, made["notes"])]), highlight=False)
            out.print(f"`yoso watch {made['id']}` follows it, `yoso pareto {made['id']}` compares the networks")
            out.print(f"its page: {client.url}{page_of(made)} (`yoso open {made['id']}`)", markup=False, soft_wrap=True)


def of_sweep(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a sweep whose searches are as `body` says: what it says of the sweep itself, and the rest."""
    own = {name: body[name] for name in ("budgets", "project", "priority", "name", "description") if name in body}
    search = {name: value for name, value in body.items() if name not in own}
    competing = dict(search.pop("finals", {}))
    if "baselines" in competing:
        own["baselines"] = competing.pop("baselines")
    if competing:
        search["finals"] = competing
    return own | {"search": search}


@app.command(rich_help_panel=SWEEPS)
def extend(
    sweep_id: SweepId,
    budget: Budgets = None,
    baseline: Baselines = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Retrain more networks of a finished sweep, without running its searches again."""
    with refusals(), Client(url) as client:
        sweep_id = client.find(sweep_id, "sweep")["id"]
        seen = client.extend_sweep(sweep_id, list(budget) if budget else None, baselines_of(baseline))
        if as_json:
            print(json.dumps(seen))
        else:
            told = f"queued finals of sweep [bold]{sweep_id}[/]"
            out.print("\n".join([told, *map(escape, seen["notes"])]), highlight=False)


def budget_range(text: str) -> dict[str, Any]:
    """What FROM:TO:COUNT asks for. Raises `InvalidValue`."""
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdigit():
        raise InvalidValue("--budgets", text, "not FROM:TO:COUNT", "such as 100k:800k:8")
    return {"from": parts[0], "to": parts[1], "count": int(parts[2])}


def varied(text: str) -> tuple[str, list[Any]]:
    """The field and the values of FIELD=V,V. Raises `InvalidValue`."""
    field, equals, values = text.partition("=")
    if not (field and equals and values):
        raise InvalidValue("--grid", text, "not FIELD=V,V", "such as space.share=true,false")
    return field, [json_or_text(value) for value in values.split(",")]


@app.command(rich_help_panel=SWEEPS)
def sweeps(
    words: Annotated[
        str | None, typer.Option("--find", help="Only sweeps whose name, ID or dataset contains this.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only sweeps with this tag.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List sweeps, newest first, with their searches by state."""
    with refusals(), Client(url) as client:
        page = client.sweeps(tag=tag, q=words)
        if as_json:
            print(json.dumps(page))
        elif not page["items"]:
            out.print("no sweeps")
        else:
            out.print(terminal.sweeps(page["items"]))


@app.command(rich_help_panel=SWEEPS)
def pareto(
    sweep_id: SweepId,
    cost: Annotated[
        str, typer.Option(help="The cost: multiply_adds, parameters, activations or latency_ms.")
    ] = "multiply_adds",
    by: Annotated[str, typer.Option(help="The metric: accuracy or balanced_accuracy.")] = "accuracy",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show a sweep's networks by cost and accuracy, with the Pareto front."""
    with refusals(), Client(url) as client:
        seen = client.pareto(client.find(sweep_id, "sweep")["id"], cost, by)
        if as_json:
            print(json.dumps(seen))
        elif not seen["points"]:
            out.print("no networks yet")
        else:
            out.print(terminal.front(seen))


@app.command(rich_help_panel=SWEEPS)
def pause(sweep_id: SweepId, url: Url = None, as_json: Json = False) -> None:
    """Pause a sweep: queued searches do not start, running ones continue."""
    steer(sweep_id, "pause", url, as_json)


@app.command(rich_help_panel=SWEEPS)
def resume(sweep_id: SweepId, url: Url = None, as_json: Json = False) -> None:
    """Resume a paused sweep."""
    steer(sweep_id, "resume", url, as_json)


def steer(sweep_id: str, how: str, url: str | None, as_json: bool) -> None:
    """Do to a sweep what its route `how` does, and show it."""
    with refusals(), Client(url) as client:
        seen = client.steer_sweep(client.find(sweep_id, "sweep")["id"], how)
        tell(seen, as_json, terminal.sweeps([seen]))


@app.command("list", rich_help_panel=SEARCHES)
def list_searches(
    status: Annotated[str | None, typer.Option(help="Only searches in this state.")] = None,
    project: Annotated[str | None, typer.Option(help="Only searches of this project.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind: search or finals.")] = None,
    words: Annotated[
        str | None, typer.Option("--find", help="Only searches whose name, ID or dataset contains this.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only searches with this tag.")] = None,
    sort: Annotated[str | None, typer.Option(help="newest (the default), oldest or accuracy.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="The maximum number to list.")] = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List searches, newest first."""
    with refusals(), Client(url) as client:
        page = client.list(limit, status=status, project=project, kind=kind, q=words, tag=tag, sort=sort)
        if as_json:
            print(json.dumps(page))
        elif not page["items"]:
            out.print("no searches")
        else:
            out.print(terminal.searches(page["items"]))


@app.command(rich_help_panel=SEARCHES)
def show(name: Id, url: Url = None, as_json: Json = False) -> None:
    """Show a search or a sweep: status, networks and errors."""
    with refusals(), Client(url) as client:
        found = client.find(name)
        if as_json:
            print(json.dumps(found))
        elif isinstance(found, Sweep):
            describe_sweep(client, found)
        else:
            describe(found)


@app.command("open", rich_help_panel=SEARCHES)
def open_page(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="A search or sweep, as for `yoso show`; without it, the list of searches.",
            autocompletion=known,
        ),
    ] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the link instead of opening a browser.")] = False,
    url: Url = None,
) -> None:
    """Open the page of a search or a sweep in a browser, signed in with your token."""
    with refusals(), Client(url) as client:
        link = client.login_link(page_of(client.find(name)) if name is not None else "/searches")["url"]
        if print_only or not webbrowser.open(link):
            print(link)


def page_of(found: Search | Sweep) -> str:
    """The path of the page of a search or a sweep."""
    return f"/{'sweeps' if isinstance(found, Sweep) else 'searches'}/{found.id}"


@app.command(rich_help_panel=SEARCHES)
def watch(name: Id, url: Url = None, as_json: Json = False) -> None:
    """Follow a search or a sweep until it ends. Exit code: 0 succeeded, 1 failed, 3 cancelled."""
    with refusals(), Client(url) as client:
        found = client.find(name)
        if isinstance(found, Sweep):
            follow_sweep(client, found["id"], as_json)
        else:
            follow(client, found["id"], as_json)


@app.command(rich_help_panel=SEARCHES)
def logs(
    name: Id,
    attempt: Annotated[int | None, typer.Option(min=1, help="The attempt (default: the newest).")] = None,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the attempt ends.")] = False,
    url: Url = None,
) -> None:
    """Print the log of a search, at most its last 4 MiB; -f keeps printing until the attempt ends.

    For a sweep, print the logs of the newest attempts of its searches, each line behind the ID of its search; -f keeps
    printing until all have ended.
    """
    with refusals(), Client(url) as client:
        found = client.find(name)
        if isinstance(found, Sweep):
            if attempt is not None:
                raise InvalidValue("--attempt", attempt, f"{name} is a sweep", "the ID of one of its searches")
            print_logs(client, found["id"], following)
            return
        search_id = found["id"]
        log = client.log(search_id, attempt)
        if log["begin"]:
            err.print(f"… {log['begin']:,} bytes before this are left out", highlight=False)
        patience = KEPT_SECONDS
        while True:
            print(terminal.harmless(log["text"]), end="", flush=True)
            if not following or (not log["running"] and not log["text"] and (log["note"] is None or patience <= 0)):
                break
            if not log["text"]:
                patience -= 0 if log["running"] else POLL_SECONDS
                time.sleep(POLL_SECONDS)
            log = client.log(search_id, log["attempt"], log["end"])
        if log["note"] is not None:
            err.print(f"[yellow]{escape(log['note'])}[/]", highlight=False, soft_wrap=True)
            raise typer.Exit(FAILED)


@app.command(rich_help_panel=SERVER)
def doctor(as_json: Json = False) -> None:
    """Check this machine for everything that Yoso needs. Exit code: 0 no problems, 1 problems."""
    from service.doctor import State, examine

    found = []
    signs = {State.GOOD: "[green]good[/]  ", State.UNSURE: "[yellow]unsure[/]", State.BAD: "[red]bad[/]   "}
    for one in examine():
        found.append(asdict(one))
        if not as_json:
            out.print(f"{signs[one.state]} {one.part}: {escape(one.told)}", highlight=False, soft_wrap=True)
            if one.remedy:
                out.print(f"       → {escape(one.remedy)}", highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(found))
    raise typer.Exit(FAILED if any(one["state"] == State.BAD for one in found) else 0)


@app.command(rich_help_panel=SEARCHES)
def cancel(name: Id, url: Url = None, as_json: Json = False) -> None:
    """Cancel a search, or all searches of a sweep that have not ended."""
    with refusals(), Client(url) as client:
        found = client.find(name)
        if "seeds" in found:
            swept = client.steer_sweep(found["id"], "cancel")
            tell(swept, as_json, terminal.sweeps([swept]))
        else:
            search = client.cancel(found["id"])
            tell(search, as_json, f"search {search['id']} is {search['status']}")


@app.command(rich_help_panel=SEARCHES)
def retry(
    name: Id,
    max_wait: NewMaxWait = None,
    max_run: NewMaxRun = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Queue a failed or cancelled search again, or all failed searches of a sweep.

    They resume from their last checkpoints. Limits on queue and running time start again from zero.
    """
    with refusals(), Client(url) as client:
        found, deadlines = client.find(name), deadlines_of(max_wait, max_run)
        if "seeds" in found:
            swept = client.steer_sweep(found["id"], "retry", **deadlines)
            tell(swept, as_json, terminal.sweeps([swept]))
        else:
            search = client.retry(found["id"], **deadlines)
            tell(search, as_json, f"search {search['id']} is {search['status']} again")


@app.command(rich_help_panel=SEARCHES)
def edit(
    found_by: Id,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag to add; may be repeated.")] = None,
    untag: Annotated[list[str] | None, typer.Option(help="A tag to remove; may be repeated.")] = None,
    description: Annotated[str | None, typer.Option(help="Its new description.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change the name, the tags or the description of a search or a sweep. The tags of a sweep are those of all its
    searches."""
    with refusals(), Client(url) as client:
        found = client.find(found_by)
        fields: dict[str, str | list[str]] = {"name": name} if name is not None else {}
        if tag or untag:
            if unknown := sorted({*(untag or ())} - {*found["tags"]}):
                raise InvalidValue("--untag", unknown[0], "not a tag of it", ", ".join(found["tags"]) or "no tag")
            fields["tags"] = [one for one in [*found["tags"], *(tag or ())] if one not in (untag or ())]
        if description is not None:
            fields["description"] = description
        if not fields:
            raise InvalidValue("edit", found_by, "nothing to change", "--name, --tag, --untag or --description")
        edited: Search | Sweep
        if isinstance(found, Sweep):
            kind, edited = "sweep", client.describe_sweep(found.id, **fields)
        else:
            kind, edited = "search", client.describe(found.id, **fields)
        tags = f", tagged {', '.join(edited['tags'])}" if edited["tags"] else ""
        tell(edited, as_json, f"{kind} {edited['id']}: {escape(edited['name'] or 'no name')}{tags}")


@app.command(rich_help_panel=SEARCHES)
def delete(
    search_id: SearchId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete a finished search with its networks, events and files. This cannot be undone."""
    with refusals(), Client(url) as client:
        found = client.find(search_id, "search")
        if not yes:
            named = f" ({terminal.printable(found['name'])})" if found["name"] else ""
            typer.confirm(f"Delete search {found['id']}{named} with all its files?", abort=True, err=True)
        tell(client.delete(found["id"]), as_json, f"search {found['id']} is deleted")


@app.command(rich_help_panel=SERVER)
def cluster(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of queued searches to show.")] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the cluster: resources, what uses them, the queue with reasons, and the shares of projects."""
    with refusals(), Client(url) as client:
        seen = client.cluster(limit)
        tell(seen, as_json, terminal.cluster(seen))


@app.command(rich_help_panel=SERVER)
def project(
    name: Annotated[str, typer.Argument(metavar="PROJECT", help="The project's name.")],
    weight: Annotated[float | None, typer.Option(help="Its weight in the fair share between projects.")] = None,
    max_running: Annotated[str | None, typer.Option(help="Maximum number of running searches, or none.")] = None,
    max_accelerators: Annotated[
        str | None, typer.Option(help="Maximum number of accelerators in use, or none.")
    ] = None,
    max_queued: Annotated[str | None, typer.Option(help="Maximum number of queued searches, or none.")] = None,
    max_stored: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Maximum size in storage, such as 500GB, or none.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change a project's weight and quotas ("none" removes a quota), and show its usage."""
    with refusals(), Client(url) as client:
        changed: dict[str, float | None] = {} if weight is None else {"weight": weight}
        quotas = {
            "max_running": max_running,
            "max_accelerators": max_accelerators,
            "max_queued": max_queued,
            "max_stored": max_stored,
        }
        changed |= {field: quota(field, text) for field, text in quotas.items() if text is not None}
        seen = client.change_project(name, **changed)
        tell(seen, as_json, terminal.projects([seen]))


@app.command(rich_help_panel=SERVER)
def audit(
    project: Annotated[str | None, typer.Option(help="Only actions in this project.")] = None,
    by: Annotated[str | None, typer.Option(help="Only actions with the token of this name.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as submitted or sign_in_refused.")] = None,
    about: Annotated[str | None, typer.Option(help="Only actions on this: search/ID, sweep/ID, token/NAME…")] = None,
    since: Annotated[str | None, typer.Option(help="From this date or time in UTC, such as 2027-01-31.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this date or time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="The maximum number to list.")] = 50,
    after: Annotated[str | None, typer.Option(help="Continue after the page that ended with this.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the audit log, newest first. Needs an admin's token."""
    with refusals(), Client(url) as client:
        page = client.audit(limit, after, project=project, by=by, action=action, about=about, since=since, until=until)
        tell_page(page, as_json, terminal.audit, "nothing", "there is more")


webhooks = typer.Typer(help="Send changes of searches and sweeps to URLs. Needs an admin's token.")
app.add_typer(webhooks, name="webhook", no_args_is_help=True, rich_help_panel=SERVER)
WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="The webhook's ID.")]
TEST_SECONDS = 30.0
"""How long a test waits to be sent, and for its answer."""


@webhooks.command("create")
def create_webhook(
    to: Annotated[
        str, typer.Argument(metavar="URL", help="Where to send messages: http(s)://, mailto://, slack://, …")
    ],
    event: Annotated[
        list[str] | None,
        typer.Option(help="running, succeeded, failed or cancelled; may be repeated (default: all but running)."),
    ] = None,
    project: Annotated[str | None, typer.Option(help="The project (default: the token's own, else default).")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Create a webhook and print its secret once; mailto:// and other notifications have no secret."""
    with refusals(), Client(url) as client:
        made = client.make_webhook(to, event, project)
        if as_json:
            print(json.dumps(made))
        else:
            told = f"webhook {made['id']} is told what has {', '.join(made['events'])} in {made['project']}"
            secret = "; its secret, for the receiver, is shown once:" if made["secret"] is not None else ""
            err.print(escape(told + secret), highlight=False, soft_wrap=True)
            if made["secret"] is not None:
                print(made["secret"])


@webhooks.command("list")
def list_webhooks(
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="The maximum number to list.")] = 100,
    after: Annotated[str | None, typer.Option(help="Start after this ID.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List webhooks with their events and whether deliveries succeed."""
    with refusals(), Client(url) as client:
        page = client.webhooks(limit, after, project)
        tell_page(page, as_json, terminal.webhooks, "no webhooks", "there are more")


@webhooks.command("test")
def test_webhook(webhook_id: WebhookId, url: Url = None, as_json: Json = False) -> None:
    """Send a test message and wait for the result. Success turns on a webhook that was off."""
    with refusals(), Client(url) as client:
        sent = client.test_webhook(webhook_id)
        give_up = time.monotonic() + TEST_SECONDS
        while sent["outcome"] is None and time.monotonic() < give_up:
            time.sleep(POLL_SECONDS)
            newest = client.deliveries(webhook_id)["items"]
            sent = next((one for one in newest if one["id"] == sent["id"]), sent)
        last = sent["attempts"][-1] if sent["attempts"] else None
        came = f"not taken: {last['reason']}" if last else "not sent yet: no process dispatches, or many are waiting"
        told = "taken" if sent["outcome"] == "taken" else came
        tell(sent, as_json, escape(told))
        if sent["outcome"] != "taken":
            raise typer.Exit(FAILED)


@webhooks.command("deliveries")
def show_deliveries(
    webhook_id: WebhookId,
    limit: Annotated[int, typer.Option(min=1, max=500, help="The maximum number to list.")] = 50,
    after: Annotated[str | None, typer.Option(help="Continue after the page that ended with this.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show sent and pending messages of a webhook, newest first, with their results."""
    with refusals(), Client(url) as client:
        page = client.deliveries(webhook_id, limit, after)
        tell_page(page, as_json, terminal.deliveries, "nothing", "there is more")


@webhooks.command("delete")
def delete_webhook(webhook_id: WebhookId, url: Url = None, as_json: Json = False) -> None:
    """Delete a webhook and its pending messages."""
    with refusals(), Client(url) as client:
        tell(client.delete_webhook(webhook_id), as_json, f"deleted webhook {escape(webhook_id)}")


def tell(answer: Mapping[str, Any], as_json: bool, shown: Any) -> None:
    """Print an answer as JSON for a script, or what people are shown of it."""
    if as_json:
        print(json.dumps(answer))
    else:
        out.print(shown, highlight=False)


def tell_page(
    page: Mapping[str, Any], as_json: bool, table: Callable[[Sequence[Any]], Any], nothing: str, more: str
) -> None:
    """Print a page of a list as `tell` does, or that there is `nothing`, and how to ask for the next one."""
    tell(page, as_json, table(page["items"]) if page["items"] else nothing)
    if page["next"] is not None:
        err.print(f"{more}: --after {escape(page['next'])}", highlight=False, soft_wrap=True)


def quota(field: str, text: str) -> float | None:
    """The number that an option gives; None where it lifts the quota. Raises `InvalidValue`."""
    if text == "none":
        return None
    option = "--" + field.replace("_", "-")
    if field == "max_stored":
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B", text)
        if match is None:
            raise InvalidValue(option, text, "not a size", "such as 500GB or 1.5TB (a GB is 10^9 bytes), or none")
        return round(float(match[1]) * 1000.0 ** " kMGT".index(match[2] or " "))
    try:
        return float(text) if field == "max_accelerators" else int(text)
    except ValueError as error:
        raise InvalidValue(option, text, "not a number", "a number, or none") from error


@app.command(rich_help_panel=SEARCHES)
def fetch(
    name: Id,
    to: Annotated[Path | None, typer.Option(help="The folder to save to (default: yoso-ID).")] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"What to download: {', '.join(FILES)}, or all (the default); may be repeated."),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Download the networks of a search, or of a sweep's finals (without finals: of all its successful searches).

    Each budget gets a folder, below a folder for each search if there are several.
    """
    with refusals(), Client(url) as client:
        for kind in kinds or ():
            if kind not in (*FILES, "all"):
                raise InvalidValue("--format", kind, "no such format", ", ".join((*FILES, "all")))
        found = client.find(name)
        searches = delivered(client, found) if isinstance(found, Sweep) else [found]
        brought = {}
        for search in searches:
            below = Path(to or f"yoso-{found['id']}")
            folder = below / search["id"] if len(searches) > 1 else below
            try:
                folders = client.fetch(search["id"], folder, None if "all" in (kinds or ()) else kinds)
            except InvalidValue as problem:
                option = {"formats": "--format", "search_id": "ID"}[problem.field]
                raise InvalidValue(option, problem.value, problem.reason, problem.accepted) from problem
            brought[search["id"]] = {str(budget): folder for budget, folder in folders.items()}
            if not as_json:
                out.print(terminal.results(search["architectures"], folders))
        if as_json:
            print(json.dumps(brought if "seeds" in found else brought[found["id"]]))


@app.command(rich_help_panel=SEARCHES)
def convert(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The folder of a network, such as yoso-ID/300000 from `yoso fetch`."),
    ],
    form: Annotated[str, typer.Option("--format", help="What to write: litert (.tflite) or coreml (.mlpackage).")],
    test: Annotated[
        Path | None,
        typer.Option(metavar="IMAGES", help="Measure the accuracy of LiteRT on images, in one folder per class."),
    ] = None,
    int8: Annotated[
        Path | None,
        typer.Option(metavar="IMAGES", help="Also write LiteRT in int8, calibrated on 256 images of a folder."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The Python interpreter that has the converter (default: Yoso's)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a downloaded network to LiteRT or Core ML, without a service. Takes a minute or two.

    The files and a section of the model card are written to the folder of the network.
    """
    from service.conversion import convert as write

    with refusals():
        report = write(folder, form, test, int8, python)
        tell(report, as_json, escape("\n".join(terminal.conversion(report["files"]))))


def delivered(client: Client, sweep: Sweep) -> Sequence[Search]:
    """The searches whose networks a sweep delivers: its finals, or without them all; those that succeeded.

    Raises `InvalidValue` where there are none.
    """
    members = list(client.each_search(sweep["id"]))
    ended = [one for one in members if one["status"] == "succeeded"]
    finals = [one for one in ended if one["kind"] == "finals"]
    if not ended:
        raise InvalidValue("ID", sweep["id"], "no search of the sweep has succeeded yet", "a sweep with networks")
    return finals or ended


@app.command(rich_help_panel=SEARCHES)
def tensorboard(
    names: Annotated[
        list[str],
        typer.Argument(metavar="ID...", help="Searches and sweeps, as for `yoso show`.", autocompletion=known),
    ],
    to: Annotated[Path, typer.Option(help="The folder to save to.")] = Path("yoso-tensorboard"),
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Download event files for TensorBoard. Run it again to download what is new."""
    with refusals(), Client(url) as client:
        found = [client.find(name) for name in names]
        ids = [search["id"] for one in found for search in (client.each_search(one["id"]) if "seeds" in one else [one])]
        folders = {search_id: client.tensorboard(search_id, to) for search_id in ids}
        if as_json:
            print(json.dumps(folders))
        else:
            out.print(
                f"look at them with: tensorboard --logdir {shlex.quote(str(to))}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


@app.command(rich_help_panel=SEARCHES)
@describes_search("accelerator_type", "project", "priority", "preempt", "max_wait", "max_run", "name")
def run(
    asked: Asked,
    to: Annotated[
        Path, typer.Option("--to", "--output", help="The run's folder; an interrupted run in it is resumed.")
    ] = Path("yoso-run"),
    as_json: Json = False,
) -> None:
    """Run a search in the foreground, without a service.

    Exit code: 0 succeeded, 1 failed, 2 bad input, 4 another process uses the folder, 130 interrupted.
    """
    from nas_core.data import inspection
    from nas_core.spec import DataOptions
    from service import keeper
    from service.domain.estimates import estimate
    from service.domain.request import InvalidRequest, Looked, SearchRequest, check
    from service.domain.scheduling import Capacity

    with refusals():
        folder = to.absolute()
        if (folder / keeper.LOCK).exists() and (busy := keeper.busy(folder)):
            tell_busy(folder, busy)
        body = asked()
        try:
            # Without a GPU driver's device there is none; with it Ray counts them.
            here = Capacity(os.cpu_count() or 1, float("inf") if Path("/dev/nvidiactl").exists() else 0)
            with terminal.Looking(err if as_json else out) as shown:

                def look(
                    dataset: str, roots: Sequence[str], anywhere: bool, options: DataOptions, size: int | None
                ) -> Looked:
                    return Looked.of(inspection.inspect(dataset, roots, anywhere, options, shown.tell, size))

                spec = check(SearchRequest(**body), data_roots(), not data_roots(), here, look)
            if not as_json:
                out.print(f"expected to take {estimate(spec, ())}", highlight=False)
        except (InvalidRequest, ValidationError) as error:
            explain(error)
            raise typer.Exit(MISUSED) from error
        values = spec.to_dict() | {"version": 1, "search_id": folder.name, "data_roots": list(data_roots())}
        folder.mkdir(parents=True, exist_ok=True)
        raise typer.Exit(run_in(folder, spec, values, as_json))


app.registered_commands.sort(key=lambda command: PANELS.index(str(command.rich_help_panel)))


def tell_busy(folder: Path, holder: str) -> NoReturn:
    """Tell that another process runs in `folder`, and leave."""
    hint = "use --to with another folder, or wait"
    told = f"[red]busy[/]: {escape(holder)} runs in {escape(str(folder))}; {hint}"
    err.print(told, highlight=False, soft_wrap=True)
    raise typer.Exit(BUSY)


def run_in(folder: Path, spec: SearchSpec, values: dict[str, Any], as_json: bool) -> int:
    """Run a search in `folder`, or go on with it, and print its result; returns the exit code.

    Raises `InvalidValue` where the folder holds another search's run.
    """
    from service import foreground, keeper

    def say(words: str) -> None:
        err.print(escape(words), highlight=False, soft_wrap=True)

    held: int | None = None
    try:
        held = keeper.lock(folder)
    except keeper.Busy as busy:
        tell_busy(folder, str(busy))
    except keeper.Unlockable as error:
        say(f"{folder} cannot be locked ({error}): do not start a second run in it")
    resumed = foreground.resumes(folder, spec, values)
    if (result := foreground.result(folder)) is not None:
        say(f"this search has finished before; its result is in {folder}")
    else:
        if resumed:
            say(f"going on with the run in {folder}")
        with terminal.Watch(err if as_json else out, spec.budgets) as watch, interruptible():
            worker = foreground.Foreground(folder, held, watch, say)
            try:
                code = worker.run()
            except KeyboardInterrupt:
                err.print("stopped; the same command resumes from the last checkpoint")
                return INTERRUPTED
        if code != 0:
            err.print(f"[red]failed[/]: {escape(worker.failure(code))}", highlight=False, soft_wrap=True)
            return FAILED
        result = foreground.result(folder)
    if result is None:
        raise OSError(f"the worker ended without a result; its log: {folder / 'job.log'}")
    if as_json:
        print(json.dumps(result))
    else:
        winners = [one for one in result["architectures"] if one.get("winner", True)]
        folders = {one["budget"]: str(folder / one["path"]) for one in winners}
        out.print(terminal.results(result["architectures"], folders))
    return 0


def look_first(client: Client, body: Mapping[str, Any], quiet: bool) -> None:
    """Have the service look at the dataset of a request, and show how far it is; it remembers what it found.

    Raises `InvalidValue` where none is named.
    """
    dataset = body.get("dataset")
    if not isinstance(dataset, str):
        accepted = "a name such as digits, or the path of an image folder; or dataset in the file of the request"
        raise InvalidValue("DATASET", dataset, "missing", accepted)
    if os.sep in dataset:
        with terminal.Looking(err if quiet else out) as shown:
            client.inspect(dataset, body.get("data"), progress=shown.tell)


def data_roots() -> tuple[str, ...]:
    """The folders of YOSO_DATA_ROOTS."""
    from service.settings import parse_roots

    return tuple(
        folder for folders in parse_roots(os.environ.get("YOSO_DATA_ROOTS", "")).values() for folder in folders
    )


def follow(client: Client, search_id: str, as_json: bool) -> None:
    """Show what happens to a search until it ends, then leave with the exit code of its end."""
    search = client.get(search_id)
    if as_json:
        for event in client.events(search_id):
            print(json.dumps(event.data), flush=True)
    else:
        tell_of_stall(search)
        with terminal.Watch(out, search["budgets"]) as shown:
            for event in client.events(search_id):
                shown.show(event.kind, event.data)
    search = client.get(search_id)
    if not as_json:
        describe(search)
    raise typer.Exit(EXIT[search["status"]] if search["status"] in ENDED else FAILED)


def follow_sweep(client: Client, sweep_id: str, as_json: bool) -> None:
    """Show how many searches of a sweep have ended until all have, then leave with an exit code as for a search."""
    last: Mapping[str, Any] = {}

    def show_change(sweep: Sweep) -> None:
        nonlocal last
        now = {name: sweep.get(name) for name in ("paused", "counts", "finals", "stalled", "done")}
        if now != last:
            last = now
            print(json.dumps(sweep), flush=True) if as_json else out.print(terminal.sweep_line(sweep), highlight=False)

    ended = client.wait_sweep(sweep_id, show_change)
    if not as_json:
        describe_sweep(client, ended)
    states = {*ended["counts"], *ended["finals"]}
    raise typer.Exit(FAILED if "failed" in states else CANCELLED if "cancelled" in states else 0)


def print_tags_and_description(one: Search | Sweep) -> None:
    """Print the tags and the description of a search or a sweep."""
    if one.get("tags"):
        out.print(f"tags: {', '.join(one['tags'])}", highlight=False)
    if one.get("description"):
        out.print(escape(one["description"]), highlight=False, soft_wrap=True)


def describe_sweep(client: Client, sweep: Sweep) -> None:
    """Print a sweep's state and its searches."""
    out.print(terminal.sweeps([sweep]))
    print_tags_and_description(sweep)
    out.print(terminal.searches(client.each_search(sweep["id"])))
    out.print(f"`yoso pareto {sweep['id']}` compares the networks", highlight=False)


def print_logs(client: Client, sweep_id: str, following: bool) -> None:
    """Print the logs of the newest attempts of a sweep's searches, each line behind the ID of its search.

    Unless `following`, those that have none yet are named; otherwise it goes on until all searches have ended.
    """
    read: dict[tuple[str, int], tuple[int | None, str]] = {}
    """How far the log of an attempt was read, and the line that began there."""
    over, notes, patience = set[tuple[str, int]](), dict[str, str](), KEPT_SECONDS
    while True:
        searches = list(client.each_search(sweep_id))
        for search in searches:
            attempt = search["id"], search["attempt"]
            if search["attempt"] == 0:
                yet = "" if search["status"] in ENDED else " yet"
                notes[search["id"]] = f"no log{yet}, it is {search['status']}"
                continue
            if attempt in over:
                continue
            end, begun = read.get(attempt, (None, ""))
            log = client.log(*attempt, end)
            if end is None and log["begin"]:
                err.print(f"{search['id']}: {log['begin']:,} bytes before this are left out", highlight=False)
            *lines, begun = (begun + terminal.harmless(log["text"])).split("\n")
            for line in [*lines, begun] if begun and not following else lines:
                print(f"{search['id']} | {line}", flush=True)
            read[attempt] = log["end"], begun
            notes.pop(search["id"], None)
            if log["note"] is not None:
                notes[search["id"]] = log["note"]
            elif not log["running"] and not log["text"]:
                over.add(attempt)
                if begun:
                    print(f"{search['id']} | {begun}", flush=True)
        ended = all(search["status"] in ENDED for search in searches)
        patience -= POLL_SECONDS if ended else 0
        if not following or (ended and (patience <= 0 or len(over) == len(read))):
            break
        time.sleep(POLL_SECONDS)
    for search_id, note in notes.items():
        err.print(f"[yellow]{search_id}: {escape(note)}[/]", highlight=False, soft_wrap=True)


def tell_of_stall(search: Search) -> None:
    """Print since when a search has stalled, if it has, and what to do."""
    if (seconds := search.get("stalled_for")) is not None:
        out.print(f"[yellow]stalled: no update for {formats.duration(seconds)}[/]", highlight=False)
        out.print(f"`yoso cluster` and `yoso logs {search['id']}` may tell why", highlight=False)


def describe(search: Search) -> None:
    """Print a search's state, networks and error."""
    name = escape(search["name"])
    out.print(f"search [bold]{search['id']}[/] {name}: {terminal.state_of(search)}", highlight=False)
    print_tags_and_description(search)
    tell_of_stall(search)
    if search["limits"]:
        out.print(", ".join(at_most(search["limits"])), highlight=False)
    if told := formats.deadlines(search["max_wait"], search["max_run"]):
        out.print(told, highlight=False)
    if search["reason"]:
        out.print(escape(search["reason"]), highlight=False)
    if search["error"] and search["status"] != "succeeded":
        error = search["error"]
        kind, told = escape(error["kind"]), escape(error["message"])
        attempt = f" (attempt {error['attempt']})" if error["attempt"] else ""
        out.print(f"[red]{kind}[/]{attempt}: {told}", highlight=False, soft_wrap=True)
    if search["dataset_report"]:
        out.print(terminal.facts(search["dataset_report"]), highlight=False)
    if search["architectures"]:
        out.print(terminal.results(search["architectures"]))


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM end what is done here as Ctrl-C does, so that it stops what it started."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def configured() -> "Iterator[Settings]":
    """The environment's settings for a process of the service, which logs to stderr; tells of a database away."""
    from sqlalchemy.exc import OperationalError

    from service import logs, private
    from service.settings import Settings

    terminal.outlive_readers()
    logs.configure(os.environ.get("YOSO_LOG_FORMAT") or "text")
    os.umask(0o077)
    try:
        settings = Settings.from_environment()
        private.close(settings)
        yield settings
    except OperationalError as error:
        raise OSError(f"the database cannot be used: {str(error.orig).strip()}") from error


@contextmanager
def refusals() -> Iterator[None]:
    """Tell what is wrong in a line or two on stderr, and leave: 2 for bad input, 1 for a failure."""
    try:
        yield
    except (InvalidValue, ValidationError) as error:
        explain(error)
        raise typer.Exit(MISUSED) from error
    except ClientError as error:
        explain(error)
        raise typer.Exit(MISUSED if error.status in (400, 404, 409, 422) else FAILED) from error
    except (Unreachable, OSError) as error:
        err.print(f"[red]{escape(words(error))}[/]", highlight=False, soft_wrap=True)
        raise typer.Exit(FAILED) from error


def words(error: Exception) -> str:
    """What went wrong, without the system's number for it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*named, error.strerror])


def explain(error: Exception) -> None:
    """Print every problem that `error` carries: field, what was wrong, what would be accepted."""
    from service.domain.request import InvalidRequest

    if isinstance(error, ClientError) and error.problem.get("errors"):
        problems = [(e["field"], e["value"], e["reason"], e["accepted"]) for e in error.problem["errors"]]
    elif isinstance(error, InvalidValue):
        problems = [(error.field, error.value, error.reason, error.accepted)]
    elif isinstance(error, InvalidRequest):
        problems = [(p.field, p.value, p.reason, p.accepted) for p in error.problems]
    elif isinstance(error, ValidationError):
        problems = [(".".join(map(str, e["loc"])), e["input"], e["msg"], "see --help") for e in error.errors()]
    else:
        err.print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        return
    for field, value, reason, accepted in problems:
        told = escape(f"{reason} (got {value!r}); accepted: {accepted}")
        err.print(f"[red]{escape(str(field))}[/]: {told}", highlight=False, soft_wrap=True)


def main() -> None:
    """The console script: `yoso`, on any terminal, with loopback spared from proxies."""
    debug = "--debug" in sys.argv[1:]
    sys.argv[1:] = with_profile_first([word for word in sys.argv[1:] if word != "--debug"])
    terminal.prepare()
    proxies.spare_loopback()
    code: int | str | None
    try:
        try:
            app()
            code = 0
        except SystemExit as end:
            code = end.code
            if debug and end.__cause__ is not None:
                traceback.print_exception(end.__cause__)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:
            code = FAILED
            confess(error, debug)
        terminal.finish()
    except SystemExit as end:  # nobody reads what was still to be written
        code = end.code
    except OSError as error:
        code = FAILED
        err.print(f"[red]{escape(words(error))}[/]", highlight=False, soft_wrap=True)
    sys.exit(code)


def with_profile_first(words: list[str]) -> list[str]:
    """A command's words, with --profile before the command, where it is an option of `yoso` itself."""
    for at, word in enumerate(words):
        if word == "--":
            break
        if word == "--profile" or word.startswith("--profile="):
            end = at + (2 if word == "--profile" else 1)
            return [*words[at:end], *words[:at], *words[end:]]
    return words


def confess(error: Exception, debug: bool) -> None:
    """Tell of an error that no command expects, which is a bug, and how to report it."""
    if debug:
        traceback.print_exception(error)
    at = traceback.extract_tb(error.__traceback__)[-1]
    told = f"{type(error).__name__}: {error} ({Path(at.filename).name}, line {at.lineno})"
    more = "the above" if debug else "what the same command shows with --debug"
    err.print(f"[red]this is a bug in Yoso[/]: {escape(told)}", highlight=False, soft_wrap=True)
    err.print(f"Please report it, with {more}.", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
