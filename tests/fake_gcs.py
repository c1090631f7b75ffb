"""A bucket server on this machine: as much of Google Cloud Storage's JSON interface as gcsfs and tensorstore use."""

import email.parser
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket"
OBJECT = re.compile(r"^(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)$")
COPY = re.compile(r"^/storage/v1/b/([^/]+)/o/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)$")


class FakeStore:
    """Objects of one bucket. url: where it listens. objects: name -> bytes. writes: names, as they came."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.writes: list[str] = []
        self._generations: dict[str, int] = {}
        self._next = 1
        self._sessions: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.RLock()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                store.answer(self, "GET")

            def do_POST(self):
                store.answer(self, "POST")

            def do_PUT(self):
                store.answer(self, "PUT")

            def do_DELETE(self):
                store.answer(self, "DELETE")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """What sends gcsfs and tensorstore here."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "a-token",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks the real service what kind of bucket it is
        }

    def answer(self, request: BaseHTTPRequestHandler, method: str) -> None:
        parts = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        with self._lock:
            status, headers, content = self._respond(method, parts.path, query, request.headers, body)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _respond(self, method, path, query, headers, body):
        if path == f"/storage/v1/b/{BUCKET}" and method == "GET":
            return _json({"kind": "storage#bucket", "name": BUCKET, "location": "US"})
        if path == f"/upload/storage/v1/b/{BUCKET}/o":
            return self._upload(method, query, headers, body)
        if path == f"/storage/v1/b/{BUCKET}/o" and method == "GET":
            return self._list(query)
        copied, named = COPY.match(path), OBJECT.match(path)
        if copied and method == "POST":
            source, target = unquote(copied.group(2)), unquote(copied.group(4))
            if source not in self.objects:
                return _missing()
            self._put(target, self.objects[source])
            return _json({"done": True, "resource": self._about(target)})
        if not named or named.group(1) != BUCKET:
            return _missing()
        return self._object(method, unquote(named.group(2)), path, query, headers)

    def _object(self, method, name, path, query, headers):
        if name not in self.objects or not self._meets(name, query):
            return _missing() if name not in self.objects else _json({"error": {"code": 412}}, 412)
        if method == "DELETE":
            del self.objects[name], self._generations[name]
            return 204, {}, b""
        if query.get("alt") != "media" and not path.startswith("/download"):
            return _json(self._about(name))
        content, status = self.objects[name], 200
        told = {"x-goog-generation": str(self._generations[name]), "Content-Type": "application/octet-stream"}
        wanted = re.match(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
        if wanted:
            first, last = int(wanted.group(1)), int(wanted.group(2) or len(content) - 1)
            last = min(last, len(content) - 1)
            told["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        return status, told, content

    def _upload(self, method, query, headers, body):
        kind = query.get("uploadType", "media")
        if kind == "resumable" and "upload_id" not in query:
            name = query.get("name") or json.loads(body)["name"]
            session = str(len(self._sessions))
            self._sessions[session] = (name, b"")
            place = f"{self.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&upload_id={session}"
            return 200, {"Location": place}, b""
        if kind == "resumable":
            name, before = self._sessions[query["upload_id"]]
            self._sessions[query["upload_id"]] = (name, before + body)
            if headers.get("Content-Range", "").endswith("/*"):
                return 308, {"Range": f"bytes=0-{len(before + body) - 1}"}, b""
            self._put(name, before + body)
            return _json(self._about(name))
        name = query.get("name", "")
        if kind == "multipart":
            about, body = _multipart(headers["Content-Type"], body)
            name = about["name"]
        if not self._meets(name, query):
            return _json({"error": {"code": 412}}, 412)
        self._put(name, body)
        return _json(self._about(name))

    def _list(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, folders = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if found:
                folders.add(prefix + head + delimiter)
            elif name >= query.get("startOffset", "") and (not query.get("endOffset") or name < query["endOffset"]):
                items.append(self._about(name))
        return _json({"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def _meets(self, name, query) -> bool:
        """The query's conditions on what is there; generation 0 is nothing."""
        now = self._generations.get(name, 0)
        match, unlike = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        return (match is None or int(match) == now) and (unlike is None or int(unlike) != now)

    def _put(self, name, content) -> None:
        self.objects[name] = content
        self.writes.append(name)
        self._generations[name], self._next = self._next, self._next + 1

    def _about(self, name) -> dict:
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": BUCKET,
            "size": str(len(self.objects[name])),
            "generation": str(self._generations[name]),
            "metageneration": "1",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }


def _json(value, status: int = 200):
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _missing():
    return _json({"error": {"code": 404, "message": "Not Found"}}, 404)


def _multipart(content_type: str, body: bytes):
    """An upload's description and its bytes."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    about, data = email.parser.BytesParser().parsebytes(head + body).get_payload()
    boundary = content_type.partition("boundary=")[2].strip("\"'").encode()
    raw = body.split(b"--" + boundary)[2].partition(b"\r\n\r\n")[2]  # the parser would change line ends
    del data
    return json.loads(about.get_payload()), raw.removesuffix(b"\r\n")
