"""Runs in an S3 bucket, on a real server whose faults are told, waited for, and never a crash."""

import itertools
import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI
from s3fs import S3FileSystem

from nas_core.storage import StorageUnavailable
from service.dispatch import dispatcher as dispatching
from service.domain.retention import Part
from service.folders.model import BadFolder
from service.folders.runs import Runs
from tests import seeding
from tests.ray_double import RayDouble
from tests.s3 import KEYS, Line, ask, asking_for_rights, s3_server
from tests.unit.service.test_dispatcher import Service
from worker import event_files, journal, run_folder
from worker.job import CHECKPOINT_SECONDS, FENCE_SECONDS, give_way
from worker.journal import Journal
from worker.run_folder import GaveWay, RunFolder

BUCKET = "bucket"
READER = json.dumps({
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}],
})  # fmt: skip
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with a bucket; its port."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as port:
        httpx.put(f"http://127.0.0.1:{port}/{BUCKET}").raise_for_status()
        yield port


@pytest.fixture
def line(s3: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The connection that storages of this test have."""
    made = Line(s3)
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": made.endpoint, "YOSO_STORAGE_SECONDS": "60"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()
    yield made
    made.close()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def url(line: Line) -> str:
    """A folder of this test's own in the bucket."""
    return f"s3://{BUCKET}/yoso-{next(_numbers)}"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return seeding.sqlite_url(tmp_path)


@pytest.fixture
def service(app: FastAPI, ray: RayDouble, url: str) -> Iterator[Service]:
    """A service whose storage is in the bucket."""
    seeding.parts(app).runs.__init__(url)  # type: ignore[misc]
    made = Service(app, ray)
    yield made
    made.close()


def attempt(url: str, number: int = 1) -> RunFolder:
    """The folder of the run "s" as an attempt sees it for which the service has made a folder."""
    runs = Runs(url)
    runs.write_spec("s", {"attempt": number}, ())
    return RunFolder(runs.url("s"), number)


def test_a_run_in_a_bucket_with_the_rights_that_are_documented(
    line: Line, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    documented = Path("docs/deploy.md").read_text().partition("```json\n")[2].partition("```")[0]
    folder = url.removeprefix("s3://")
    policy = documented.replace("BUCKET/FOLDER", folder).replace("BUCKET", BUCKET)
    for name, value in keys_of_user(line.server, policy).items():
        monkeypatch.setenv(name, value)
    with asking_for_rights(line.server):
        use_all(Runs(url))
        # moto wants a right to the bucket for what S3 grants for each file; what it refuses is not passed over.
        with pytest.raises(StorageUnavailable, match="cannot be removed"):
            Runs(url).remove("s")
        assert "Access Denied" in str(Runs(f"{url}-of-others").problem())


def test_a_run_is_removed_from_its_bucket(url: str) -> None:
    runs = Runs(url)
    runs.write("s", "a/b", b"1")
    runs.remove("s")
    runs.remove("s")
    assert not runs.files.exists("s") and runs.problem() is None


def test_what_a_run_holds_in_its_bucket_is_measured_and_removed_in_parts(url: str) -> None:
    runs = Runs(url)
    assert runs.folders() == [] and runs.size("s") == 0
    assert runs.problem() is None  # which leaves a file of its own there
    for name in (
        "attempts/0001/train/1/job.pt",
        "attempts/0001/result.json",
        "journal/0001-000001.jsonl",
        "logs/driver",
    ):
        runs.write("s", name, bytes(1000))
    runs.write("other", "logs/driver", bytes(10))
    assert runs.folders() == ["other", "s"] and runs.size("s") == 4000
    runs.prune("s", Part.CHECKPOINTS | Part.EVENTS, journal=False)
    assert runs.size("s") == 3000
    for _ in "ab":  # what is gone is no fault
        runs.prune("s", Part.CHECKPOINTS | Part.EVENTS | Part.LOGS, journal=True)
    assert runs.size("s") == 1000 and runs.attempts("s") == [1]


def use_all(runs: Runs) -> None:
    assert runs.problem() is None and runs.attempts("s") == []
    assert runs.write_spec("s", {"attempt": 1}, ()) and not runs.write_spec("s", {"attempt": 1, "x": 2}, ())
    folder = RunFolder(runs.url("s"), 1)
    folder.begin()
    folder.take("search")
    assert folder.read_json("spec.json")["attempt"] == 1
    folder.write("x", b"1")
    folder.write("x", b"22")
    assert folder.exists("x") and not folder.exists("y") and runs.read("s", "x") == b"22"
    folder.create("journal/0001-000001.jsonl", b'{"kind": "phase", "phase": "search", "time": 1}\n')
    with pytest.raises(FileExistsError):
        folder.create("journal/0001-000001.jsonl", b"other")
    assert [name for name, _ in runs.chunks("s", "")] == ["0001-000001.jsonl"]
    folder.write("empty", b"")
    assert runs.read("s", "empty") == b"" and runs.tail("s", "x", 1) == b"2"
    assert b"".join(runs.open("s", "x").blocks) == b"22"
    with pytest.raises(BadFolder, match="more than 1 bytes"):
        runs.files.read(runs.find("s", "x"), 1)
    with pytest.raises(FileNotFoundError):
        runs.read("s", "none")
    with pytest.raises(GaveWay, match="started before"):
        RunFolder(runs.url("s"), 1).begin()
    folder.remove("empty")
    RunFolder(runs.url("s"), 1).take("search")
    with pytest.raises(GaveWay, match="other workers write search"):
        folder.write("x", b"")
    runs.close("s", 1)
    with pytest.raises(GaveWay, match="closed"):
        folder.check()


@contextmanager
def broken(how: str, line: Line, url: str) -> Iterator[str]:
    """The URL of the storage while something is wrong with it, for those who open it anew."""
    S3FileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        match how:
            case "denied":
                for name, value in keys_of_user(line.server, READER).items():
                    patch.setenv(name, value)
                stack.enter_context(asking_for_rights(line.server))
            case "wrong keys":
                patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
                stack.enter_context(asking_for_rights(line.server))
            case "wrong secret":
                patch.setenv("AWS_ACCESS_KEY_ID", keys_of_user(line.server, READER)["AWS_ACCESS_KEY_ID"])
                stack.enter_context(asking_for_rights(line.server))
            case "no keys":
                patch.delenv("AWS_ACCESS_KEY_ID")
                patch.delenv("AWS_SECRET_ACCESS_KEY")
            case "no bucket":
                url = url.replace(BUCKET, "no-bucket")
            case "torn":
                line.spoil("torn", whole=200)
            case "silent":
                patch.setenv("YOSO_STORAGE_SECONDS", "1")
                line.spoil("silent")
            case _:
                line.spoil(how)
        yield url
    line.spoil(None)
    S3FileSystem.clear_instance_cache()


def keys_of_user(s3: int, policy: str) -> dict[str, str]:
    """The keys of a new user, who may do what an IAM policy allows."""
    name = f"user{next(_numbers)}"
    ask(s3, "iam", Action="CreateUser", UserName=name)
    ask(s3, "iam", Action="PutUserPolicy", UserName=name, PolicyName="rights", PolicyDocument=policy)
    told = ask(s3, "iam", Action="CreateAccessKey", UserName=name)
    found = [re.search(f"<{tag}>(.*)</{tag}>", told) for tag in ("AccessKeyId", "SecretAccessKey")]
    assert found[0] and found[1], told
    return {"AWS_ACCESS_KEY_ID": found[0][1], "AWS_SECRET_ACCESS_KEY": found[1][1]}


FAULTS = {
    "away": ("EndpointConnectionError", "AWS_ENDPOINT_URL"),
    "silent": ("TimeoutError", "AWS_ENDPOINT_URL"),
    "torn": ("", "AWS_ENDPOINT_URL"),
    "denied": ("Denied", "docs/deploy.md"),
    "wrong keys": ("Access Key Id", "AWS_SECRET_ACCESS_KEY"),
    "wrong secret": ("signature", "AWS_SECRET_ACCESS_KEY"),
    "no keys": ("Unable to locate credentials", "AWS_ACCESS_KEY_ID"),
    "no bucket": ("bucket does not exist", "make the bucket"),
}
"""What goes wrong, a word that tells it, and one of what to do about it."""


@pytest.mark.parametrize("how", FAULTS)
def test_a_fault_is_a_reason_and_a_retry(
    seeds: dict[str, str], service: Service, line: Line, url: str, how: str
) -> None:
    """For whoever waits for a search, asks for its files, or asks whether the service is ready."""
    seeding.report(service.app)
    weights = f"/api/v1/architectures/{seeds['succeeded']}-{seeding.BUDGETS[0]}/weights"
    search_id, dispatcher = service.queue(), service.dispatcher()
    with seeding.serving(service.app) as address, httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/readyz").status_code == 200
        runs = seeding.parts(service.app).runs
        with broken(how, line, url) as broken_url:
            runs.files, runs._checked = Runs(broken_url).files, float("-inf")
            told = client.get("/readyz")
            assert told.status_code == 503
            assert all(word in told.json()["storage"] for word in FAULTS[how]), told.text
            dispatcher.turn()
            dispatcher.turn()
            search = service.searches.get(search_id)
            assert search.status == "launching" and FAULTS[how][0] in (search.reason or ""), search.reason
            assert "tried again" in (search.reason or "")
            answer = client.get(weights)
            if how == "denied":
                assert answer.status_code == 404, "these keys may read, and there is no such file"
            else:
                assert answer.status_code == 503 and "Retry-After" in answer.headers
                assert FAULTS[how][0] in answer.json()["detail"]
        runs.files, runs._checked = Runs(url).files, float("-inf")
        assert client.get("/readyz").status_code == 200
        dispatcher._troubles[search_id].until = 0.0
        dispatcher.turn()
        assert service.status(search_id) == "waiting"
        assert client.get(weights).status_code == 404, "it is another storage's"


@pytest.mark.parametrize("how", ["away", "torn", "silent"])
def test_a_fence_outlives_its_storage(line: Line, url: str, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    """And ends the process once the attempt is over, as soon as it can know."""
    folder, came = attempt(url), []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with broken(how, line, url):
            folder.fs.seconds = 1.0
            thread = give_way(folder, seconds=0.05)
            while "cannot be read just now" not in capfd.readouterr().err:
                thread.join(0.1)
            assert thread.is_alive() and came == []
        folder.fs.seconds = 60.0
        Runs(url).close("s", 1)
        thread.join(60)
        assert not thread.is_alive() and came == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_fence_outlives_its_bucket(line: Line, url: str) -> None:
    folder = attempt(url)
    folder.root = folder.root.replace(BUCKET, "no-bucket")
    with pytest.raises(StorageUnavailable, match="bucket does not exist"):
        folder.check()
    folder.root = f"{BUCKET}/nothing"
    with pytest.raises(StorageUnavailable, match="not there just now"):
        folder.check()


def test_what_was_written_and_whose_answer_was_torn_is_written(line: Line, url: str) -> None:
    """The second try finds what the first has written, which is no other driver's."""
    folder = attempt(url)
    line.spoil("torn", whole=30, times=1)  # behind the word to go on
    line.requests.clear()
    folder.begin()
    assert line.requests["PUT"] == 2
    with pytest.raises(GaveWay, match="started before"):
        folder.begin()


def test_a_worker_waits_for_a_server_that_is_away(line: Line, url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """And not for one that refuses what it wants."""
    folder = attempt(url)
    line.spoil("away")
    writing = threading.Thread(target=folder.write_json, args=["x", {"a": 1}])
    writing.start()
    while "tried again in 1 s" not in capfd.readouterr().err:
        writing.join(0.1)
        assert writing.is_alive()
    line.spoil(None)
    writing.join()
    assert folder.read_json("x") == {"a": 1}
    with asking_for_rights(line.server), pytest.raises(StorageUnavailable, match="Access Key Id"):
        folder.write("x", b"")
    assert "tried again" not in capfd.readouterr().err


def test_a_file_whose_answer_breaks_off_is_read_again(line: Line, url: str) -> None:
    runs, content = Runs(url), bytes(1000)
    runs.write("s", "logs/x", content)
    line.spoil("torn", whole=900, times=1)
    assert runs.read("s", "logs/x") == content
    line.spoil("torn", whole=900)
    with pytest.raises(StorageUnavailable):
        runs.read("s", "logs/x")


@pytest.mark.proof
def test_a_running_search_asks_seldom(service: Service, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted with all that asks: the journal of a search that tells something every second, or nothing for a while,
    its checkpoints and its fence, and the dispatcher; however long the journal is, which nobody lists.
    """
    clock, seconds = [1000.0], 240
    for module in (journal, event_files, run_folder, dispatching):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], time=lambda: clock[0]))
    runs, search_id, dispatcher = seeding.parts(service.app).runs, service.queue(), service.dispatcher()
    dispatcher.turn()
    folder = RunFolder(runs.url(search_id), 1)
    writing = Journal(folder, 1)
    for _ in range(3):
        writing.write({"kind": "started", "workers": 1, "resumed": False})
        writing.flush(force=True)
    dispatcher.turn()
    assert service.status(search_id) == "running"
    checkpoints = fences = clock[0]
    for most, tells in ((0.5, True), (0.15, False)):
        line.requests.clear()
        for second in range(seconds):
            clock[0] += 1
            if tells:
                writing.write(seeding.epoch("search", 3, 30, 0.25))
                writing.flush()
            if clock[0] - checkpoints >= folder.every(CHECKPOINT_SECONDS):
                checkpoints = clock[0]
                writing.flush(force=True)
                folder.write(f"train/{second}/job.pt", b"state")
            if clock[0] - fences >= folder.every(FENCE_SECONDS):
                fences = clock[0]
                folder.check()
            if second % 5 == 0:
                dispatcher.turn()
        assert 0 < line.requests.total() / seconds < most, line.requests
        assert line.requests["GET list of journal"] == 0
    told = service.searches.get(search_id).journal_cursor
    assert told == f"{writing.chunk}.jsonl" and writing.number > 12
    service.ray.end(search_id, "FAILED")
    dispatcher.turn()
    assert line.requests["GET list of journal"] == 1, "nothing is left unread"
