"""A receiver of webhooks in Python, with the standard library alone.

WEBHOOK_SECRET=whsec_… PORT=3000 python receiver.py
"""

import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

TOLERANCE_S = 300
BODY_BYTES_MAX = 1024 * 1024
KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))

# In production both are tables of your database, written in the transaction that does the work.
lock = Lock()
seen: set[str] = set()
versions: dict[str, int] = {}


def verified(message_id: str, timestamp: str, signatures: str, body: bytes) -> bool:
    """Whether the sender knows the secret and sent this now. The body is the bytes as they came."""
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    # Several signatures stand in the header while a secret is rotated.
    return any(hmac.compare_digest(expected.encode(), s.encode()) for s in signatures.split(" "))


def handle(message_id: str, event: dict[str, str]) -> str:
    """What became of a verified message: each is handled once, and an older state never replaces a newer one."""
    with lock:
        if message_id in seen:
            return "duplicate"
        seen.add(message_id)
        version = int(event["resource_version"])
        if version <= versions.get(event["resource_id"], 0):
            return "stale"
        versions[event["resource_id"]] = version
        return "handled"


class Receiver(BaseHTTPRequestHandler):
    """Answers at once: 204 when it is stored, 401 when it is not from the sender."""

    timeout = 10

    def do_POST(self) -> None:
        """One message."""
        length = int(self.headers.get("content-length", "0"))
        if length > BODY_BYTES_MAX:
            return self.answer(413)
        body = self.rfile.read(length)
        message_id = self.headers.get("webhook-id", "")
        timestamp = self.headers.get("webhook-timestamp", "")
        if not verified(message_id, timestamp, self.headers.get("webhook-signature", ""), body):
            return self.answer(401)
        event = json.loads(body)
        print(handle(message_id, event), message_id, event["type"], flush=True)  # noqa: T201 - to be watched
        return self.answer(204)

    def answer(self, status: int) -> None:
        """The status, without a body."""
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name above
        """Quiet: what is handled is printed."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3000"))), Receiver)
    print("listening", server.server_address[1], flush=True)  # noqa: T201 - to be watched
    server.serve_forever()
