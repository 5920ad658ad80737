"""A small Hugging Face Hub on this machine: enough of its HTTP for the real client to create, upload and download.

It keeps everything in memory: content-addressed blobs, commits, branches; models, datasets and Spaces have one space of names. Tokens are names: any non-empty token may
write. `LocalHub.drop_uploads` makes the next uploads of large files break off half-way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER = "tester"


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, str]] = field(default_factory=dict)  # commit → path → sha256 of the content
    branches: dict[str, str] = field(default_factory=dict)  # name → commit

    def commit(self, branch: str, changes: dict[str, str | None], message: str) -> str:
        files = dict(self.commits[self.branches[branch]]) if branch in self.branches else {}
        files.update({path: blob for path, blob in changes.items() if blob is not None})
        for path in [path for path, blob in changes.items() if blob is None]:
            files.pop(path, None)
        name = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files.items())}".encode()).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        if revision in self.branches:
            return self.branches[revision]
        return revision if revision in self.commits else None


class LocalHub:
    """The server; `url` is what `HF_ENDPOINT` is to be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.large: set[str] = set()  # blobs that came as LFS objects
        self.drop_uploads = 0
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def clear(self) -> None:
        self.repos.clear()
        self.blobs.clear()
        self.large.clear()
        self.requests.clear()
        self.drop_uploads = 0

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path → content of a revision."""
        repo = self.repos[repo_id]
        return {path: self.blobs[blob] for path, blob in repo.commits[repo.resolve(revision) or ""].items()}

    def store(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        self.blobs[name] = content
        return name


class _Handler(BaseHTTPRequestHandler):
    state: LocalHub
    protocol_version = "HTTP/1.1"
    routes = (
        ("POST", r"/api/repos/create", "create_repo"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate_card"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>[^/]+)", "create_branch"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "create_commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "model_info"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<blob>\w+)", "lfs_upload"),
        ("POST", r"/lfs/verify", "lfs_verify"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
    )

    def dispatch(self) -> None:
        path = urlsplit(self.path).path
        path = re.sub(r"^(/api)?/(datasets|models|spaces)/", lambda found: "/api/models/" if found[1] else "/", path)
        self.state.requests.append(f"{self.command} {path}")
        method = "GET" if self.command == "HEAD" else self.command
        for verb, pattern, name in self.routes:
            match = re.fullmatch(pattern, path)
            if verb == method and match:
                given = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                if "repo" in given and not self.may_see(given["repo"]):
                    return self.refuse(401, "RepoNotFound", "Repository not found")
                return getattr(self, name)(**given)
        self.body()
        self.refuse(404, "EntryNotFound", f"no such address: {path}")

    do_GET = do_HEAD = do_POST = do_PUT = dispatch

    def log_message(self, *_: object) -> None:
        pass

    # Plumbing

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ").strip()

    def may_see(self, repo: str) -> bool:
        return repo in self.state.repos and (bool(self.token) or not self.state.repos[repo].private)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        length = headers.pop("Content-Length", str(len(data)))
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": length}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.body()
        self.answer({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def commit_of(self, repo: str, revision: str = "main") -> str | None:
        found = self.state.repos[repo].resolve(revision)
        if found is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    # Writing

    def create_repo(self) -> None:
        given = json.loads(self.body())
        if not self.token:
            return self.answer({"error": "Invalid username or password."}, 401)
        repo = f"{given.get('organization') or USER}/{given['name']}"
        url = f"{self.state.url}/{repo}"
        if repo in self.state.repos:
            return self.answer({"error": "You already created this model repo", "url": url}, 409)
        private = bool(given.get("private")) or given.get("visibility") == "private"
        self.state.repos[repo] = Repo(private)
        self.state.repos[repo].commit(
            "main", {".gitattributes": self.state.store(b"*.safetensors filter=lfs\n")}, "new"
        )
        self.answer({"url": url, "name": repo})

    def create_branch(self, repo: str, branch: str) -> None:
        self.body()
        branches = self.state.repos[repo].branches
        if branch in branches:
            return self.answer({"error": "exists"}, 409)
        branches[branch] = branches["main"]
        self.answer({})

    def whoami(self) -> None:
        self.answer(
            {"name": USER, "orgs": [], "type": "user"} if self.token else {"error": "no token"},
            200 if self.token else 401,
        )

    def validate_card(self) -> None:
        self.body()
        self.answer({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        files = json.loads(self.body())["files"]
        if not self.token:
            return self.answer({"error": "Unauthorized"}, 401)
        mode = {True: "lfs", False: "regular"}
        large = {file["path"]: file["path"].endswith((".safetensors", ".bin")) for file in files}
        self.answer(
            {
                "files": [
                    {"path": path, "uploadMode": mode[is_large], "shouldIgnore": False}
                    for path, is_large in large.items()
                ]
            }
        )

    def lfs_batch(self, repo: str) -> None:
        objects = []
        for item in json.loads(self.body())["objects"]:
            actions = {
                "upload": {"href": f"{self.state.url}/lfs/{item['oid']}"},
                "verify": {"href": f"{self.state.url}/lfs/verify"},
            }
            objects.append({**item, **({} if item["oid"] in self.state.large else {"actions": actions})})
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_upload(self, blob: str) -> None:
        if self.state.drop_uploads:
            self.state.drop_uploads -= 1
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.close_connection = True
            self.connection.close()
            return
        content = self.body()
        if hashlib.sha256(content).hexdigest() != blob:
            return self.answer({"error": "not the announced content"}, 400)
        self.state.large.add(self.state.store(content))
        self.answer({})

    def lfs_verify(self) -> None:
        self.answer({}, 200 if json.loads(self.body())["oid"] in self.state.large else 404)

    def create_commit(self, repo: str, revision: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
        if not self.token:
            return self.answer({"error": "Unauthorized"}, 401)
        changes: dict[str, str | None] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = self.state.store(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.state.large:
                    return self.answer({"error": f"{value['path']} was not uploaded"}, 400)
                changes[value["path"]] = value["oid"]
            else:
                changes[value["path"]] = None
        commit = self.state.repos[repo].commit(revision, changes, lines[0]["value"]["summary"])
        self.answer({"commitUrl": f"{self.state.url}/{repo}/commit/{commit}", "commitOid": commit, "hookOutput": ""})

    # Reading

    def described(self, path: str, blob: str) -> dict[str, object]:
        content = self.state.blobs[blob]
        entry: dict[str, object] = {
            "type": "file",
            "path": path,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }
        if blob in self.state.large:
            entry["lfs"] = {"oid": blob, "size": len(content), "pointerSize": 134}
        return entry

    def model_info(self, repo: str, revision: str = "main") -> None:
        if commit := self.commit_of(repo, revision):
            files = self.state.repos[repo].commits[commit]
            self.answer(
                {
                    "id": repo,
                    "modelId": repo,
                    "sha": commit,
                    "private": self.state.repos[repo].private,
                    "gated": False,
                    "tags": [],
                    "siblings": [{"rfilename": path} for path in sorted(files)],
                }
            )

    def tree(self, repo: str, revision: str, path: str = "") -> None:
        if commit := self.commit_of(repo, revision):
            files = self.state.repos[repo].commits[commit]
            self.answer([self.described(name, blob) for name, blob in sorted(files.items()) if name.startswith(path)])

    def paths_info(self, repo: str, revision: str) -> None:
        given = json.loads(self.body())
        if commit := self.commit_of(repo, revision):
            files = self.state.repos[repo].commits[commit]
            self.answer([self.described(path, files[path]) for path in given["paths"] if path in files])

    def file(self, repo: str, revision: str, path: str) -> None:
        commit = self.commit_of(repo, revision)
        if commit is None:
            return
        blob = self.state.repos[repo].commits[commit].get(path)
        if blob is None:
            self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        content = self.state.blobs[blob]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start, stop = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            return self.answer(content[start:stop], 206, **headers)
        self.answer(content, **headers)
