"""A Hugging Face Hub in this process: as much of its HTTP interface as models are sent and fetched by."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_local"


@dataclass
class Hub:
    """Repositories by name: commits, oldest first, each a number and its files; tags are their numbers' names."""

    repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    private: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    """Paths of files that were asked for."""

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        number = hashlib.sha1(f"{name} {len(self.repositories.setdefault(name, []))}".encode()).hexdigest()
        self.repositories[name].append((number, files))
        return number

    def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories[name]
        if revision == "main":
            return commits[-1] if commits else ("0" * 40, {})
        return dict((number, (number, files)) for number, files in commits).get(self.tags.get(revision, revision))


@contextmanager
def local_hub(monkeypatch: pytest.MonkeyPatch, cache: str) -> Iterator[Hub]:
    """Has `huggingface_hub` talk to a hub on this machine, with an empty cache and a token."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: Any = b"", **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if api else parts[:2])
            if name not in hub.repositories:
                return self.answer(404, X_Error_Code="RepoNotFound")
            what, revision, path = (parts[4], parts[5], "") if api else (parts[2], parts[3], "/".join(parts[4:]))
            state = hub.at(name, revision)
            if state is None:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            number, files = state
            if what == "revision":
                return self.answer(200, {"id": name, "sha": number, "siblings": [{"rfilename": f} for f in files]})
            if what == "tree":
                listed = [{"type": "file", "path": f, "size": len(b), "oid": etag(b)} for f, b in files.items()]
                return self.answer(200, listed)
            if path not in files:
                return self.answer(404, X_Error_Code="EntryNotFound")
            hub.fetched.append(path)
            return self.answer(200, files[path], ETag=f'"{etag(files[path])}"', X_Repo_Commit=number)

        def do_POST(self) -> None:
            chunks = []  # a long body comes in pieces
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
            else:
                chunks.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            body, parts = b"".join(chunks), unquote(urlsplit(self.path).path).strip("/").split("/")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401)
            if parts == ["api", "validate-yaml"]:
                return self.answer(200, {"errors": [], "warnings": []})
            if parts == ["api", "repos", "create"]:
                about = json.loads(body)
                name = f"{about['organization']}/{about['name']}"
                if about["organization"] == "others":
                    return self.answer(403, {"error": "You don't have the rights"})
                if about.get("private") or about.get("visibility") == "private":
                    hub.private.append(name)
                status = 409 if name in hub.repositories else 200
                hub.repositories.setdefault(name, [])
                return self.answer(status, {"url": f"http://{self.headers['Host']}/{name}"})
            name, what = "/".join(parts[2:4]), parts[4]
            if what == "preupload":
                asked = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                return self.answer(200, {"files": modes})
            state = hub.at(name, "main")
            files = dict(state[1]) if state else {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "deletedFile":
                    del files[value["path"]]
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
            number = hub.commit(name, files)
            url = f"http://{self.headers['Host']}/{name}/commit/{number}"
            return self.answer(200, {"success": True, "commitUrl": url, "commitOid": number, "hookOutput": ""})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_to(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Has `huggingface_hub` look for the hub at another URL, as HF_ENDPOINT does before it is imported."""
    files = "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{files}")


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
