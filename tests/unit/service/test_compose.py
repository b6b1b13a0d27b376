"""docker-compose.yml: what it promises, checked without an engine; and by docker-compose itself where that is there."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.dispatch.local_ray import free_ports
from tools import compose_by_hand
from tools.compose_by_hand import Misconfigured, Place, in_order, load, substitute

ROOT = Path(compose_by_hand.__file__).parents[1]
REPLICAS, DISPATCHERS = ("api-1", "api-2"), ("dispatch-1", "dispatch-2")


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    return load({})


def test_the_parts_are_those_that_the_documentation_names(services: dict[str, dict[str, Any]]) -> None:
    parts = {"postgres", "migrate", *REPLICAS, *DISPATCHERS, "proxy", "ray-head", "ray-cpu"}
    assert set(services) == parts
    everything = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(everything["services"]) == parts | {"ray-gpu"} and everything["services"]["ray-gpu"]["profiles"] == [
        "gpu"
    ]
    for name in REPLICAS:
        assert services[name]["command"] == ["yoso", "serve", "--no-dispatch"]
    for name in DISPATCHERS:
        assert services[name]["command"] == ["yoso", "dispatch"]
    for name in (*REPLICAS, *DISPATCHERS):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert services[name]["environment"]["YOSO_DATABASE_URL"].startswith("postgresql://")
    assert "--num-cpus=0" in services["ray-head"]["command"]
    storages = {one["volumes"][0] for name, one in services.items() if name not in ("postgres", "proxy")}
    assert storages == {"storage:/storage"}, "all of them see the same files"
    assert [name for name, one in services.items() if "ports" in one] == ["proxy"], "only the proxy is reachable"
    order = list(in_order(services))
    assert order.index("postgres") < order.index("migrate") < order.index("api-1") < order.index("proxy")


def test_secrets_are_files_that_only_those_who_need_them_get(services: dict[str, dict[str, Any]]) -> None:
    everything = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert {name: set(one) for name, one in everything["secrets"].items()} == {
        name: {"file"} for name in ("database-password", "ray-token", "tokens", "oidc-client-secret", "rate-storage")
    }
    chosen = {"YOSO_OIDC_ISSUER": "https://id.example.org", "YOSO_RATE_STORAGE_FILE": "redis-url"}
    for name, service in load(chosen).items():
        named = set()
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET|KEY|RATE_STORAGE", key):
                found = re.fullmatch(r"/run/secrets/([\w-]+)", str(value))
                assert found or (key, value) == ("RAY_AUTH_MODE", "token"), f"{name} has {key} in its environment"
                named.add(found[1] if found else "")
            assert not re.search("://[^/@]*:[^/@]*@", str(value)), f"{name} has a password in {key}"
        assert named == set(service.get("secrets", [])), name
    for secret in ("tokens", "oidc-client-secret", "rate-storage"):
        assert {name for name, one in services.items() if secret in one.get("secrets", [])} == set(REPLICAS)
    for name in REPLICAS:  # nothing is said of a provider where none is named
        assert not any(value for key, value in services[name]["environment"].items() if "OIDC" in key)


def test_ray_asks_for_the_token_that_the_dispatchers_send(services: dict[str, dict[str, Any]]) -> None:
    for name in ("ray-head", "ray-cpu", *DISPATCHERS):
        assert services[name]["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray-token"
    assert all(services[name]["environment"]["RAY_AUTH_MODE"] == "token" for name in ("ray-head", "ray-cpu"))


def test_each_part_reaches_and_may_do_no_more_than_it_needs(services: dict[str, dict[str, Any]]) -> None:
    networks = {name: set(one["networks"]) for name, one in services.items()}
    for name in ("ray-head", "ray-cpu"):
        assert networks[name].isdisjoint(networks["postgres"] | networks["proxy"] | networks["api-1"])
    assert networks["proxy"].isdisjoint(networks["postgres"])
    for name in REPLICAS:
        assert not {"RAY_AUTH_TOKEN_PATH", "YOSO_RAY_ADDRESS"} & set(services[name]["environment"])
        assert services[name]["environment"]["FORWARDED_ALLOW_IPS"] != "*"
    for name, one in services.items():
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert name == "postgres" or one["cap_drop"] == ["ALL"]
        assert one.get("read_only", False) or name in ("postgres", "ray-head", "ray-cpu")


def test_variables_are_replaced_as_compose_does() -> None:
    assert substitute("${A:-x}/${B}", {"B": "b"}) == "x/b" and substitute("${A:-x}", {"A": ""}) == "x"
    assert substitute("${A:+x}", {"A": "a"}) == "x" and substitute("${A:+x}", {"A": ""}) == ""
    with pytest.raises(Misconfigured, match="A is not set: say it"):
        substitute("${A:?say it}", {})


def test_by_hand_every_text_is_as_in_the_file_but_for_places(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    place = Place(services, tmp_path)
    local = {k: place.local("api-1", v) for k, v in services["api-1"]["environment"].items()}
    assert local["YOSO_PORT"] == str(place.ports["api-1", "8765"]) != str(place.ports["api-2", "8765"])
    postgres = place.ports["postgres", "5432"]
    assert local["YOSO_DATABASE_URL"] == f"postgresql://yoso@127.0.0.1:{postgres}/yoso"
    dispatching = {k: place.local("dispatch-1", v) for k, v in services["dispatch-1"]["environment"].items()}
    assert dispatching["YOSO_RAY_ADDRESS"] == f"http://127.0.0.1:{place.ports['ray-head', '8265']}"
    assert local["YOSO_STORAGE"] == f"{tmp_path}/storage" and local["YOSO_DATA_ROOTS"] == f"{tmp_path}/data"
    assert local["YOSO_TOKENS_FILE"] == f"{tmp_path}/secrets/tokens"
    joins = [place.local("ray-cpu", word) for word in services["ray-cpu"]["command"]]
    assert f"--address=127.0.0.1:{place.ports['ray-head', '6379']}" in joins and "--num-cpus=2" in joins


def test_docker_compose_accepts_it() -> None:
    """Where docker-compose is installed; what it would find is otherwise checked above."""
    program = shutil.which("docker-compose")
    if program is None:
        assert "version" not in yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        return
    environment = {"PATH": os.environ["PATH"]}
    told = subprocess.run([program, "config", "-q"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("name", ["service", "worker"])
def test_an_image_runs_as_nobody_special_and_takes_no_secret(name: str) -> None:
    text = (ROOT / "deploy" / f"{name}.Dockerfile").read_text()
    assert text.index("USER 10001") > text.index("useradd --uid 10001")
    assert re.findall(r"^ARG (\w+)", text, re.MULTILINE) == ["BASE", "VERSION"]
    assert not re.search(r"^ENV\b|--mount=type=secret", text, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*", "what is sent to the builder is named one by one"
    copied = [word for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all(f"!{word}" in ignored and (ROOT / word).exists() for word in copied)
    assert {"yoso", "nas_core", name} <= {*copied}, "a package that is not there would be left out without a word"


@pytest.mark.parametrize("name", ["service", "worker"])
def test_an_image_is_of_files_whose_hashes_are_known(name: str) -> None:
    """Its base by digest, and packages in the versions that are tested here, all that Yoso needs among them."""
    text = (ROOT / "deploy" / f"{name}.Dockerfile").read_text()
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}\nFROM \$\{BASE\}$", text, re.MULTILINE)
    assert text.count("pip install") == 2 and "--require-hashes --no-deps" in text and "--no-index --no-deps" in text
    lock = (ROOT / f"deploy/{name}.lock.txt").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE))
    assert len(locked) == len(re.findall("^[a-z]", lock, re.MULTILINE)), "some have no hash"
    tested = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for package, found in locked.items():
        assert tested.get(package, found) == found, f"make lock: {package} is tested in {tested[package]}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"service": ("gcs", "mlflow", "otel", "redis", "s3"), "worker": ("gcs", "s3", "worker")}[name]
    needed = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    for one in map(Requirement, needed):
        assert one.specifier.contains(locked[canonicalize_name(one.name)]), f"make lock: {one}"


def test_the_service_needs_no_more_than_its_image_has(tmp_path: Path) -> None:
    """Everything the service loads comes from what its image installs: no package of the worker's or of the tests'."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = re.compile(r"[\w-]+")
    needed = {name.findall(one)[0].lower() for one in project["dependencies"]}
    extras = {name.findall(one)[0] for one in project["optional-dependencies"]["worker"]}
    assert not needed & extras and {"torch", "ray"} <= extras
    refused = {"PIL" if one == "pillow" else "sklearn" if one == "scikit-learn" else one for one in extras}
    refused |= {"worker", "tests", "hypothesis"}
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(refused)!r}:
            raise ModuleNotFoundError(f"the service's image has no {{name}}")
sys.meta_path.insert(0, Refuse())
import service.app, service.cli, service.client, service.dashboard, service.processes
from service.settings import Settings
app = service.app.create_app(Settings("{{0}}", "sqlite:///{{0}}/yoso.db"), dispatch=False)
from service.domain.request import SearchRequest, check
check(SearchRequest(dataset="digits", budgets=["300k"]), (), True)
"""
    command = [sys.executable, "-c", program.replace("{0}", str(tmp_path))]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_the_proxy_believes_a_terminator_on_this_machine_and_tells_the_visitors_address(tmp_path: Path) -> None:
    """By nginx itself where that is installed; else its lists are looked at."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        for line in ("set_real_ip_from 127.0.0.0/8;", "127.0.0.0/8 1;", "X-Forwarded-Proto $visitors_scheme;"):
            assert line in text
        return

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = json.dumps({name: self.headers.get(name) for name in ("X-Forwarded-For", "X-Forwarded-Proto")})
            self.send_response(200)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told.encode())

        def log_message(self, *_: object) -> None:
            return

    [port] = free_ports(1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as replica:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
        text = re.sub(r"^ *resolver .*\n| resolve(?= )", "", text, flags=re.MULTILINE)
        text = re.sub(r"api-\d:8765", f"127.0.0.1:{replica.server_port}", text)
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};").replace(" /tmp/", f" {tmp_path}/")
        (tmp_path / "nginx.conf").write_text(text)
        command = [program, "-c", f"{tmp_path}/nginx.conf", "-e", "stderr", "-g", "daemon off; master_process off;"]
        proxy = subprocess.Popen(command)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=8)) as http:
                plain = http.get("/").json()
                behind = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9", "X-Forwarded-Proto": "https"}
                terminated = http.get("/", headers=behind).json()
        finally:
            proxy.terminate()
            proxy.wait(30)
            replica.shutdown()
    assert plain == {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http"}
    assert terminated == {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}, (
        "what it says itself, no more"
    )
