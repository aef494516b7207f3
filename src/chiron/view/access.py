"""Who may use the server: requests from this computer, to this address, from its own pages, with the session's cookie."""

import secrets
from collections.abc import Iterator
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chiron.reports.shell import render_page

HOST = "127.0.0.1"
_READS = {"GET", "HEAD"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Gate:
    """The tokens of one server, and the session cookie that they are exchanged for."""

    def __init__(self, port: int) -> None:
        """Create the secrets of a server that listens on ``port``."""
        self.port = port
        self.token = secrets.token_urlsafe(24)
        """Token of the printed address, valid until the server ends."""
        self.session = secrets.token_urlsafe(32)
        self._once: set[str] = set()

    @property
    def cookie(self) -> str:
        """Name of the cookie. It has the port, because browsers send the cookies of all ports of a host."""
        return f"chiron-view-{self.port}"

    def link(self, *, once: bool = False) -> str:
        """Return the address with a token.

        Args:
            once: whether the token may be used only once. A browser gets its address as an argument, which other users of the computer
                can read in the list of processes.
        """
        token = self.token
        if once:
            token = secrets.token_urlsafe(24)
            self._once.add(token)
        return f"http://{HOST}:{self.port}/?token={token}"

    def admits(self, token: str) -> bool:
        """Check a token, and use it up if it is valid once."""
        for known in tuple(self._once):
            if _equal(token, known):
                self._once.discard(known)
                return True
        return _equal(token, self.token)

    def knows(self, request: Request) -> bool:
        """Return whether the request has the session's cookie."""
        return _equal(request.cookies.get(self.cookie, ""), self.session)


def _equal(given: str, known: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), known.encode())


class Guard:
    """ASGI middleware that answers only requests that the gate lets through, and adds security headers to every response."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        """Guard ``app``."""
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        response = self._response(Request(scope))
        await (self._app if response is None else response)(scope, receive, send_with_headers)

    def _response(self, request: Request) -> Response | None:
        """Return the refusal or the exchange of the token; ``None`` for a request that the app answers."""
        hosts = {f"{name}:{self._gate.port}" for name in (HOST, "localhost")}
        if request.headers.get("host", "").lower() not in hosts:
            return refused("This address is not the server's own. Open the address that 'chiron view' printed.")
        if problem := _from_elsewhere(request, hosts):
            return refused(problem)
        if request.method not in _READS:
            return refused("This server only reads.", HTTPStatus.METHOD_NOT_ALLOWED)
        if (token := request.query_params.get("token")) is not None:
            return self._exchange(request, token)
        if not self._gate.knows(request):
            return refused("This page needs the address with the token, which 'chiron view' printed when it started.")
        return None

    def _exchange(self, request: Request, token: str) -> Response:
        if not self._gate.knows(request) and not self._gate.admits(token):
            return refused("The token in this address is not valid. Open the address that 'chiron view' printed when it started.")
        home = RedirectResponse("/", status_code=HTTPStatus.SEE_OTHER)
        # "strict" would withhold the cookie from the redirect if the link was opened from another site, such as a notebook or a chat.
        home.set_cookie(self._gate.cookie, self._gate.session, httponly=True, samesite="lax", path="/")
        return home


def _from_elsewhere(request: Request, hosts: set[str]) -> str:
    """Return why a request does not come from the server's own pages or from the address bar; empty if it does."""
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{host}" for host in hosts}:
        return "This request comes from another site."
    fetched = request.headers.get("sec-fetch-site", "none")
    if fetched not in {"none", "same-origin"} and request.headers.get("sec-fetch-mode") != "navigate":
        return "This request comes from another site."
    return ""


def refused(why: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> HTMLResponse:
    """Return a plain page that says why a request is not answered."""
    parts: Iterator[str] = render_page("chiron.view", "refused.html", styles=["view.css"], title=status.phrase, why=why)
    return HTMLResponse("".join(parts), status)
