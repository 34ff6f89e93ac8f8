"""A small server on localhost that speaks as much of the Hub's HTTP API as a push and a download use.

It keeps repositories in memory, checks every upload's size and sha256 against what was announced, fails one request in
``fail_every``, and logs method, path and JSON body of each request.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class HubServer:
    def __init__(self, fail_every=0):
        self.fail_every, self.requests, self.log = fail_every, 0, []
        self.repositories, self.blobs, self.trouble = {}, {}, []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def files(self, repo_id):
        return self.repositories[repo_id]["files"]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        hub = self.hub
        with hub.lock:
            hub.requests += 1
            number = hub.requests
            shown = body.decode("utf-8", "replace") if self.command == "POST" else f"{len(body)} bytes"
            hub.log.append(f"{self.command} {self.path} {shown}")
        if hub.fail_every and number % hub.fail_every == 0:
            return self.answer(500, {"error": "out of order"})
        for method, pattern, action in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                return action(self, body, *found.groups())
        return self.answer(404, {"error": "not here"}, X_Error_Code="EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def repository(self, repo_id):
        found = self.hub.repositories.get(repo_id)
        if found is None:
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return found

    def create(self, body):
        wanted = json.loads(body)
        repo_id = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        if not self.headers.get("Authorization"):
            return self.answer(401, {"error": "log in"})
        if repo_id.startswith("other/"):
            return self.answer(403, {"error": "not your name space"})
        if repo_id in self.hub.repositories:
            return self.answer(409, {"error": "exists", "url": f"{self.hub.address}/{repo_id}"})
        self.hub.repositories[repo_id] = {"files": {}, "sha": "0" * 40, "history": {}}
        return self.answer(200, {"url": f"{self.hub.address}/{repo_id}", "name": repo_id})

    def validate_yaml(self, body):
        assert "content" in json.loads(body)
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, body, repo_id, _):
        if self.repository(repo_id) is None:
            return
        files = json.loads(body)["files"]
        mode = {True: "lfs", False: "regular"}
        lfs = (".safetensors", ".bin", ".pkl")
        answers = [
            {"path": f["path"], "uploadMode": mode[f["path"].endswith(lfs)], "shouldIgnore": False} for f in files
        ]
        self.answer(200, {"files": answers})

    def lfs_batch(self, body, repo_id):
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                href = f"{self.hub.address}/upload/{wanted['oid']}/{wanted['size']}"
                entry["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, body, oid, size):
        if len(body) != int(size) or hashlib.sha256(body).hexdigest() != oid:
            self.hub.trouble.append(f"upload {oid}: {len(body)} bytes do not match what was announced")
            return self.answer(400, {"error": "mismatch"})
        self.hub.blobs[oid] = body
        return self.answer(200)

    def commit(self, body, repo_id, _):
        repository = self.repository(repo_id)
        if repository is None:
            return
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if len(self.hub.blobs.get(value["oid"], b"")) != value["size"]:
                    self.hub.trouble.append(f"{value['path']} was committed but never uploaded")
                    return self.answer(400, {"error": "no such object"})
                repository["files"][value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "header":
                repository["message"] = value["summary"]
        content = repr(sorted((name, _sha1(data)) for name, data in repository["files"].items()))
        repository["sha"] = _sha1(content.encode())
        repository["history"][repository["sha"]] = dict(repository["files"])
        self.answer(200, {"success": True, "commitOid": repository["sha"], "commitMessage": repository["message"],
                          "commitUrl": f"{self.hub.address}/{repo_id}/commit/{repository['sha']}"})  # fmt: skip

    def at(self, repo_id, revision):
        """(commit, its files), or None after the error was answered; changes made behind the Hub's back are seen."""
        repository = self.repository(repo_id)
        if repository is None:
            return None
        if revision in ("main", repository["sha"]):
            return repository["sha"], repository["files"]
        if revision not in repository["history"]:
            self.answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
            return None
        return revision, repository["history"][revision]

    def revision(self, _, repo_id, revision):
        found = self.at(repo_id, revision)
        if found is not None:
            siblings = [{"rfilename": name} for name in found[1]]
            self.answer(200, {"id": repo_id, "sha": found[0], "siblings": siblings})

    def tree(self, _, repo_id, revision):
        found = self.at(repo_id, revision)
        if found is not None:
            files = found[1].items()
            self.answer(200, [{"type": "file", "path": n, "size": len(d), "oid": _sha1(d)} for n, d in files])

    def resolve(self, _, repo_id, revision, name):
        found = self.at(repo_id, revision)
        if found is None:
            return
        data = found[1].get(name)
        if data is None:
            return self.answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
        tags = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X_Repo_Commit": found[0]}
        return self.answer(200, data, Accept_Ranges="none", **tags)


def _sha1(data):
    return hashlib.sha1(data).hexdigest()


ROUTES = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", _Handler.preupload),
    ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/upload/(\w+)/(\d+)", _Handler.upload),
    ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", _Handler.commit),
    ("GET", r"/api/models/([^/]+/[^/]+)/revision/(.+)", _Handler.revision),
    ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", _Handler.tree),
    ("GET HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.resolve),
]
