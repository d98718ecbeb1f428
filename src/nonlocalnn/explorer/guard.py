"""Checks of every request to the explorer, its host name and origin, and security headers of responses."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from nonlocalnn._errors import needs

with needs("starlette", "explorer", "the explorer"):
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def allowed_hosts(host: str) -> tuple[tuple[str, ...], bool]:
    """Return the host names that requests may have, and whether they may have any IP address.

    A page on the web can let a name of its own point to this machine, and so reach the server (DNS
    rebinding). An IP address cannot be made to point elsewhere.

    Example:
        >>> allowed_hosts("127.0.0.1")
        (('localhost', '127.0.0.1', '::1'), False)
        >>> allowed_hosts("example.org")[0][-1]
        'example.org'
    """
    if host in ("0.0.0.0", "::", ""):
        return (*_LOCAL, socket.gethostname().lower()), True
    return (*dict.fromkeys((*_LOCAL, host.lower())),), False


class Guard:
    """Refuses requests with other host names, and changes that other sites ask for; adds security headers.

    Args:
        app: The application that answers the requests that pass.
        hosts: Allowed host names, in lower case.
        any_address: Whether any IP address is allowed too.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], any_address: bool = False) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            answer = JSONResponse({"error": "the server is not called by this name"}, 400)
            await answer(scope, receive, send_with_headers)
        elif scope["method"] not in ("GET", "HEAD") and not _is_same_origin(headers, host):
            answer = JSONResponse({"error": "only the explorer's own page may ask for this"}, 403)
            await answer(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if "@" in host:
            return False
        return name in self._hosts or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same_origin(headers: Headers, host: str) -> bool:
    """Return whether a request comes from our own page, or from no page at all."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin in (f"http://{host}", f"https://{host}")
