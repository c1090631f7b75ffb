"""A Hugging Face hub of one machine: repositories in memory, by the few requests that uploads and downloads make."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub:
    """repositories: name -> {path: bytes}. requests: "METHOD path" in order."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []

    def sha(self, name: str) -> str:
        content = b"".join(path.encode() + data for path, data in sorted(self.repositories[name].items()))
        return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def serving():
    """A hub and its address."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: FakeHub):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            self._note()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                hub.repositories.setdefault(name, {})
                return self._json({"url": f"http://127.0.0.1/{name}", "name": name, "id": name})
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            name = "/".join(path.split("/")[3:5])
            if path.endswith("/preupload/main"):
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self._json({"files": files})
            if path.endswith("/commit/main"):
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        value = entry["value"]
                        hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
                return self._json(
                    {"commitUrl": f"http://127.0.0.1/{name}/commit/1", "commitOid": hub.sha(name), "success": True}
                )
            return self._missing()

        def do_GET(self):
            self._note()
            path = self.path.partition("?")[0]
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                name = "/".join(parts[2:4])
                if name not in hub.repositories:
                    return self._missing()
                files = hub.repositories[name]
                if parts[4:5] == ["tree"]:
                    return self._json(
                        [
                            {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                            for p, d in files.items()
                        ]
                    )
                return self._json(
                    {"id": name, "modelId": name, "sha": hub.sha(name), "siblings": [{"rfilename": p} for p in files]}
                )
            name, rest = "/".join(parts[:2]), "/".join(parts[4:])
            if parts[2:3] == ["resolve"] and rest in hub.repositories.get(name, {}):
                return self._file(hub.repositories[name][rest], hub.sha(name))
            return self._missing()

        do_HEAD = do_GET

        def _note(self):
            hub.requests.append(f"{self.command} {self.path}")

        def _json(self, content):
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _file(self, data, sha):
            self._send(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha})

        def _missing(self):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

        def _send(self, status, data, headers):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler
