"""Who may use the server: requests from this computer, to this address, from its own pages, with the session's cookie."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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


CSRF = "X-Chiron-CSRF"
"""Header that every request that writes has. Pages of other sites can neither read its value nor send the header."""


@dataclass(frozen=True)
class Reviewer:
    """A person who may write reviews, and the secrets of that person's link."""

    name: str
    reviews: bool = True
    """Whether the person has a queue of paths to review."""
    adjudicates: bool = False
    """Whether the person decides about reviews that disagree."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)


class Gate:
    """The tokens of one server, and the session cookies that they are exchanged for."""

    def __init__(self, port: int, reviewers: Sequence[Reviewer] = ()) -> None:
        """Create the secrets of a server that listens on ``port``. Without ``reviewers``, it only reads."""
        self.port = port
        self.reviewers = tuple(reviewers)
        self.token = secrets.token_urlsafe(24)
        """Token of the printed address, valid until the server ends."""
        self.session = secrets.token_urlsafe(32)
        self._once: set[str] = set()

    @property
    def cookie(self) -> str:
        """Name of the cookie. It has the port, because browsers send the cookies of all ports of a host."""
        return f"chiron-view-{self.port}"

    def link(self, *, once: bool = False, reviewer: Reviewer | None = None) -> str:
        """Return the address with a token; that of ``reviewer`` allows to write reviews in this name.

        Args:
            once: whether the token may be used only once. A browser gets its address as an argument, which other users of the computer
                can read in the list of processes.
        """
        token = self.token if reviewer is None else reviewer.token
        if once:
            token = secrets.token_urlsafe(24)
            self._once.add(token)
        return f"http://{HOST}:{self.port}/?token={token}"

    def admit(self, token: str) -> str | None:
        """Return the session of a token, or ``None``; a token that is valid once is used up."""
        for known in tuple(self._once):
            if _equal(token, known):
                self._once.discard(known)
                return self.session
        sessions = {self.token: self.session} | {reviewer.token: reviewer.session for reviewer in self.reviewers}
        return next((session for known, session in sessions.items() if _equal(token, known)), None)

    def knows(self, request: Request) -> bool:
        return _equal(request.cookies.get(self.cookie, ""), self.session) or self.reviewer(request) is not None

    def reviewer(self, request: Request) -> Reviewer | None:
        cookie = request.cookies.get(self.cookie, "")
        return next((reviewer for reviewer in self.reviewers if _equal(cookie, reviewer.session)), None)


def _equal(given: str, known: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), known.encode())


class Guard:
    """ASGI middleware that answers only requests that the gate lets through, and adds security headers to every response."""

    def __init__(self, app: ASGIApp, gate: Gate, written: Callable[[], None] = lambda: None) -> None:
        """Guard ``app``. ``written`` is called after every request that may have written."""
        self._app, self._gate, self._written = app, gate, written

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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

        request = Request(scope)
        response = self._response(request)
        # A reviewer must not see the verdicts of others, unless it is this person's task to decide between them.
        reviewer = self._gate.reviewer(request)
        request.state.blind = reviewer is not None and not reviewer.adjudicates
        request.state.reviewer = reviewer
        try:
            await (self._app if response is None else response)(scope, receive, send_with_headers)
        finally:
            if request.method not in _READS:
                self._written()

    def _response(self, request: Request) -> Response | None:
        """Return the refusal or the exchange of the token; ``None`` for a request that the app answers."""
        hosts = {f"{name}:{self._gate.port}" for name in (HOST, "localhost")}
        if request.headers.get("host", "").lower() not in hosts:
            return refused("This address is not the server's own. Open the address that 'chiron view' printed.")
        if problem := _from_elsewhere(request, hosts):
            return refused(problem)
        if request.method not in _READS:
            return self._refused_write(request)
        if (token := request.query_params.get("token")) is not None:
            return self._exchange(request, token)
        if not self._gate.knows(request):
            return refused("This page needs the address with the token, which 'chiron view' printed when it started.")
        return None

    def _refused_write(self, request: Request) -> Response | None:
        """Return the refusal of a request that would write; ``None`` if a reviewer sent it from a page of this server."""
        if request.method != "POST" or not self._gate.reviewers:
            return refused("This server only reads.", HTTPStatus.METHOD_NOT_ALLOWED)
        reviewer = self._gate.reviewer(request)
        if reviewer is None:
            return refused("Only a reviewer may write. Open the reviewer's own address, which 'chiron view' printed when it started.")
        if "origin" not in request.headers or not _equal(request.headers.get(CSRF, ""), reviewer.csrf):
            return refused("This request does not come from the page of this reviewer. Load the page again.")
        return None

    def _exchange(self, request: Request, token: str) -> Response:
        session = self._gate.admit(token)
        if session is None and not self._gate.knows(request):
            return refused("The token in this address is not valid. Open the address that 'chiron view' printed when it started.")
        reviews = any(reviewer.session == session for reviewer in self._gate.reviewers)
        home = RedirectResponse("/review" if reviews else "/", status_code=HTTPStatus.SEE_OTHER)
        if session is not None:
            # "strict" would withhold the cookie from the redirect if the link was opened from another site, such as a notebook or a chat.
            home.set_cookie(self._gate.cookie, session, httponly=True, samesite="lax", path="/")
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
