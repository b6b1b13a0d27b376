"""Ray's Jobs REST interface as a double: a real HTTP server that keeps jobs and runs nothing."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from service.dispatch.executors.ray_jobs import Endpoint


class RayDouble:
    """What the server knows, and how it is to misbehave."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.submitted: list[str] = []
        self.stopped: list[str] = []
        self.cpus, self.gpus = 8.0, 0.0
        self.drop_answers = False
        """Do what is asked, but break the connection instead of answering."""
        self.endpoint = Endpoint("http://127.0.0.1:1", "token")

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON for a request."""
        if path.startswith("/api/v0/nodes"):
            node = {"state": "ALIVE", "resources_total": {"CPU": self.cpus, "GPU": self.gpus}}
            return 200, {"data": {"result": {"result": [node]}}}
        if (method, path) == ("POST", "/api/jobs/"):
            job_id = body["submission_id"]
            if job_id in self.submitted:
                return 500, f"Job with submission_id {job_id} already exists"
            self.submitted.append(job_id)
            self.jobs[job_id] = {"status": "RUNNING", "message": "running", "body": body}
            return 200, {"submission_id": job_id}
        match = re.fullmatch(r"/api/jobs/([\w-]+)(/stop)?", path)
        if match is None or match[1] not in self.jobs:
            return 404, "no such job"
        if match[2]:
            self.stopped.append(match[1])
        elif method == "DELETE":
            del self.jobs[match[1]]
            return 200, {}
        return 200, self.jobs[match[1]]

    def end(self, search_id: str, status: str, attempt: int = 1, message: str = "") -> None:
        """Let a search's job end."""
        self.jobs[f"yoso-{search_id}-{attempt}"] |= {"status": status, "message": message}


@contextmanager
def ray_double() -> Iterator[RayDouble]:
    """A double that listens while the context lasts."""
    double = RayDouble()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != "Bearer token":
                status, values = 401, "no token"
            else:
                status, values = double.answer(self.command, self.path, json.loads(body or b"{}"))
            if double.drop_answers:
                self.close_connection = True
                return
            content = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    double.endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}", "token")
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
