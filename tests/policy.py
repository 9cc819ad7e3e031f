"""A proxy before the object store that lets through what an AWS policy allows, and answers as AWS does.

    with PolicyProxy(("127.0.0.1", 8333), policy) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint

AWS answers 404 for a key that is missing only to those who may list the bucket whatever the prefix, for a
request for an object has none; all others get 403.
"""

import fnmatch
import http.client
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
_OF_OBJECTS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject"}


class PolicyProxy:
    """Listens on a loopback port; `endpoint` is its URL. refused: what it did not let through;
    missing: keys that were asked for and are not there."""

    def __init__(self, upstream: tuple[str, int], policy: Mapping[str, Any]) -> None:
        self.upstream, self.policy = upstream, policy
        self.refused: list[str] = []
        self.missing: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                proxy.serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

            def log_message(self, *_: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "PolicyProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Refuse, or pass on; a missing key is denied to those who may not list."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        action, resource, prefix = asked(request.command, request.path)
        if not self.allows(action, resource, prefix):
            self.refused.append(f"{action} {resource} {prefix or ''}".strip())
            return self._answer(request, 403, {}, _DENIED)
        upstream = http.client.HTTPConnection(*self.upstream, timeout=60)
        upstream.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data, headers, status = answer.read(), dict(answer.getheaders()), answer.status
        upstream.close()
        bucket = resource.partition("/")[0]
        if status == 404 and action == "s3:GetObject":
            self.missing.append(resource)
            if not self.allows("s3:ListBucket", bucket, None):
                status, headers, data = 403, {}, _DENIED
        return self._answer(request, status, headers, data)

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], data: bytes
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                request.send_header(name, value)
        length = headers.get("Content-Length", "0") if request.command == "HEAD" else str(len(data))
        if status != 204:
            request.send_header("Content-Length", length if status != 403 else str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def allows(self, action: str, resource: str, prefix: str | None) -> bool:
        """Whether a statement allows this. What only encrypted connections may do is left to AWS."""
        for statement in self.policy["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if statement["Effect"] != "Allow" or action not in actions:
                continue
            if not fnmatch.fnmatchcase(f"arn:aws:s3:::{resource}", statement["Resource"]):
                continue
            condition = statement.get("Condition", {})
            patterns = condition.get("StringLike", {}).get("s3:prefix")
            if not condition or ("Null" in condition and prefix is None):
                return True
            if (
                patterns
                and prefix is not None
                and any(fnmatch.fnmatchcase(prefix, pattern) for pattern in patterns)
            ):
                return True
        return False


def asked(method: str, path: str) -> tuple[str, str, str | None]:
    """Action, bucket or bucket/key, and the prefix of a listing."""
    parts = urlsplit(path)
    resource, query = unquote(parts.path).strip("/"), parse_qs(parts.query, keep_blank_values=True)
    if "/" not in unquote(parts.path).lstrip("/").rstrip("/") and method in {"GET", "HEAD"}:
        return "s3:ListBucket", resource, query.get("prefix", [None])[0]
    if method == "DELETE":
        return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", resource, None
    if "/" not in resource:
        return f"s3:{method}Bucket", resource, None
    return _OF_OBJECTS[method], resource, None
