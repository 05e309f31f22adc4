"""A server that speaks enough of the Hugging Face Hub's protocol for the real client library.

It keeps repositories in memory, counts requests, and misbehaves on request: other content under the right
headers, connections that break half-way. Endpoints are those that huggingface_hub uses to download a file
of a commit and to publish files in one commit through Git LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_token_of_the_tests"
REGULAR_SUFFIXES = (".md", ".txt", ".gitattributes")
"""Files that are kept in Git itself; all others go through Git LFS."""


@dataclass
class Repository:
    """Contents by path, for each commit; the last commit is the branch main."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        """Add files to what the last commit holds and return the new commit."""
        merged = {**(self.files("main") or {}), **files}
        listing = [(path, _oid(path, data)) for path, data in sorted(merged.items())]
        sha = hashlib.sha1(f"{len(self.commits)} {listing}".encode()).hexdigest()
        self.commits[sha], self.messages[sha] = merged, message
        return sha

    @property
    def head(self) -> str | None:
        """The last commit."""
        return next(reversed(self.commits), None)

    def files(self, revision: str) -> dict[str, bytes] | None:
        """Contents by path; None if there is no such revision."""
        return self.commits.get(self.head if revision == "main" else revision)


class HubServer(ThreadingHTTPServer):
    """The Hub on a free port of the loopback.

    Attributes:
        repositories: by "owner/name".
        requests: method, path and range of every request so far, "GET /owner/name/resolve/... bytes=99-".
        replaced: content to send instead of the true one, by path of the file; the headers stay true.
        breaking: how many of the next downloads end half-way.
        delay: seconds before a download's body is sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.replaced: dict[str, bytes] = {}
        self.breaking = 0
        self.delay = 0.0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Address without a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Commit files to a repository and return the commit."""
        return self.repositories.setdefault(repo, Repository()).commit(files)

    def count(self, method: str) -> int:
        """How many requests of this method there were."""
        return sum(request.startswith(f"{method} ") for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _dispatch(self) -> None:
        self.server.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._fail(401, "Invalid username or password.")
        for methods, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                return action(self, body, **match.groupdict())
        return self._fail(404, f"no endpoint {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch

    # --- answers ------------------------------------------------------------------------------------

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a response; underscores in the names of headers stand for hyphens."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json")

    def _fail(self, status: int, message: str, **headers: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, Content_Type="application/json", **headers)

    # --- download -----------------------------------------------------------------------------------

    def resolve(self, _: bytes, repo: str, revision: str, path: str) -> None:
        """Metadata (HEAD) or content (GET) of a file."""
        repository = self.server.repositories.get(repo)
        if repository is None:
            return self._fail(404, "Repository not found", X_Error_Code="RepoNotFound")
        files = repository.files(revision)
        if files is None:
            return self._fail(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
        commit = {"X_Repo_Commit": repository.head if revision == "main" else revision}
        if path not in files:
            return self._fail(404, "Entry not found", X_Error_Code="EntryNotFound", **commit)
        size = str(len(files[path]))
        linked = {"X_Linked_Size": size} if _is_lfs(path) else {}
        headers = {"ETag": f'"{_oid(path, files[path])}"', "Content_Length": size, **linked, **commit}
        if self.command == "HEAD":
            return self._send(200, **headers)
        time.sleep(self.server.delay)
        content = self.server.replaced.get(path, files[path])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content_Length"] = str(len(content) - start)
        return self._send_content(206 if start else 200, content[start:], headers)

    def _send_content(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Send the content, or break the connection after half of it."""
        if not self.server.breaking:
            return self._send(status, content, **headers)
        self.server.breaking -= 1
        self._send(status, content[: len(content) // 2], **headers)
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        return None

    # --- publish ------------------------------------------------------------------------------------

    def create(self, body: bytes) -> None:
        """Create a repository."""
        wanted = json.loads(body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo.startswith("forbidden/"):
            return self._fail(403, "You don't have the rights to create a model under this namespace")
        url = {"url": f"{self.server.url}/{repo}"}
        if repo in self.server.repositories:
            return self._json({"error": "You already created this model repo", **url}, status=409)
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.repositories[repo] = Repository(private=bool(private))
        return self._json(url)

    def validate(self, body: bytes) -> None:
        """Check the front matter of a model card, as far as the tests need."""
        if re.search(r"^license: unheard-of$", json.loads(body)["content"], re.MULTILINE):
            errors = [{"message": '"license" must be one of ...'}]
            return self._json({"errors": errors, "warnings": []}, status=400)
        return self._json({"errors": [], "warnings": []})

    def info(self, _: bytes, repo: str, revision: str) -> None:
        """What a revision is."""
        head = self.server.repositories[repo].head
        self._json({"id": repo, "sha": head if revision == "main" else revision})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        """Say for each file how it must be sent, and what the repository holds in its place."""
        present = self.server.repositories[repo].files(revision) or {}
        answers = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            oid = _oid(path, present[path]) if path in present else None
            mode = "lfs" if _is_lfs(path) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def batch(self, body: bytes, repo: str) -> None:
        """Say where the objects of Git LFS are to be put."""
        objects = []
        for item in json.loads(body)["objects"]:
            place = f"{self.server.url}/lfs/{item['oid']}"
            actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            objects.append({**item, "actions": actions})
        self._json({"transfer": "basic", "objects": objects})

    def put_object(self, body: bytes, oid: str) -> None:
        """Take an object of Git LFS."""
        self.server.objects[oid] = body
        self._send(200)

    def verify_object(self, body: bytes, oid: str) -> None:
        """Confirm that an object arrived whole."""
        data = self.server.objects.get(oid, b"")
        sound = hashlib.sha256(data).hexdigest() == oid and len(data) == json.loads(body)["size"]
        self._send(200 if sound else 422)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        """Commit files: small ones come along, large ones are already here."""
        header, *operations = (json.loads(line) for line in body.splitlines())
        files = {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        sha = self.server.repositories[repo].commit(files, header["value"]["summary"])
        self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "commitOid": sha})


_Action = Callable[..., None]
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, str, _Action], ...] = (
    ("GET HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>[^/]+)", _Handler.info),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.put_object),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", _Handler.verify_object),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Handler.commit),
)


def _is_lfs(path: str) -> bool:
    return not path.endswith(REGULAR_SUFFIXES)


def _oid(path: str, data: bytes) -> str:
    """How the Hub names the content: SHA-256 for Git LFS, Git's own SHA-1 for regular files."""
    if _is_lfs(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub_server() -> Iterator[HubServer]:
    """A running server; the client has to be pointed at `hub_server.url`."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
