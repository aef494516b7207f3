"""Checks of addresses, headers and names of variables: they are valid, and contain no secret.

A check raises ``ValueError`` with the reason and the fix. No message repeats a value that could be a secret.
"""

import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_SECRET = re.compile(r"key|token|secret|auth|cookie|password|credential", re.IGNORECASE)
_OURS = frozenset({"content-type", "content-length", "transfer-encoding", "connection", "expect"})
_VERSION_NAME = re.compile(r"(?:api[-_]?)?version|api[-_]?preview", re.IGNORECASE)
_VERSION = re.compile(r"[0-9A-Za-z.-]{1,24}")
"""Allowed query value: too short to be a key."""
_SET = frozenset({"model", "messages", "system", "contents", "systeminstruction", "stream", "maxtokens", "temperature"})
"""Parameters of a batch's requests that chiron sets, without underscores and in lower case."""
_SET_IN_GENERATION = frozenset({"maxoutputtokens", "candidatecount", "temperature", "seed", "stopsequences"})
"""The same below Gemini's ``generationConfig``."""
_HOST = re.compile(r"[0-9A-Za-z._-]{1,253}")


def check_base_url(url: str) -> None:
    """Check that ``url`` can be the base URL of an endpoint."""
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("base_url contains a space or an invisible character: type it again")
    if _has_user(url):
        raise ValueError("base_url contains a user or password: name the key's environment variable in api_key_env")
    _check_query(url)
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"base_url must begin with http:// or https://, but is '{url[:200]}'")
    if url.split("?", 1)[0].rstrip("/").endswith("/chat/completions"):
        raise ValueError("base_url must end before /chat/completions (a query such as ?api-version=... may follow what is left)")
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"base_url '{url[:200]}' is not a valid address: {error}") from None
    if not _is_host(host) or port == 0:
        raise ValueError(f"base_url '{url[:200]}' has no valid host: write https://host:port/v1")


def check_images_url(url: str) -> None:
    """Check that ``url`` can be the address of a folder of images, below which requests name them."""
    if _has_user(url):
        raise ValueError("url contains a user or password, which every request would contain: publish the folder without them")
    if not re.fullmatch(r"(?:https?|file)://[^\s?#\"\\]+", url):
        raise ValueError("url must be the address of the folder without a query, such as https://example.org/images")


def check_batch_parameters(parameters: Mapping[str, Any]) -> None:
    """Check that ``batch.parameters`` overrides nothing that chiron sets. Google reads names with and without underscores."""
    for name, value in parameters.items():
        plain = _plain(name)
        if plain in _SET:
            raise ValueError(f"batch.parameters contains '{name}', which chiron sets itself: remove it")
        if plain != "generationconfig":
            continue
        if name != "generationConfig" or not isinstance(value, dict):
            raise ValueError("batch.parameters: write generationConfig as such, with names and values below it")
        for inner in value:
            if _plain(str(inner)) in _SET_IN_GENERATION:
                raise ValueError(
                    f"batch.parameters.generationConfig contains '{inner}', which changes the number or length of replies, or the draw:"
                    " chiron sets it itself, or leaves it out; remove it"
                )


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _has_user(url: str) -> bool:
    return "@" in url.split("//", 1)[-1].split("/", 1)[0]


def endpoint_url(base_url: str, path: str) -> str:
    """Return the URL of ``path`` below a base URL, which may have a query (Azure's ``?api-version=...``)."""
    base, mark, query = base_url.partition("?")
    return base.rstrip("/") + path + mark + query


def _check_query(url: str) -> None:
    """Check that a URL has no query, or one whose names and values do not look like a secret."""
    if "#" in url:
        raise ValueError("base_url contains a fragment (#...): remove it; a key belongs in the environment variable that api_key_env names")
    query = url.partition("?")[2]
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if not _VERSION_NAME.fullmatch(name) or not _VERSION.fullmatch(value):
            raise ValueError(
                "base_url contains a query (?...) other than a version such as ?api-version=2024-10-21: remove it; a key belongs in the"
                " environment variable that api_key_env names; api_key_header sets the header for it"
            )


def check_headers(headers: Mapping[str, str]) -> None:
    """Check that these headers can be sent and do not contain secrets."""
    for name, value in headers.items():
        check_header_name(name, "header")
        if _SECRET.search(name):
            raise ValueError(
                f"header '{name}' seems to contain a key: put it into an environment variable, name that in api_key_env, and the"
                " header, if it is not Authorization, in api_key_header"
            )
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"header '{name}' has an invalid value: use printable ASCII on one line")


def check_variable(name: str, what: str) -> None:
    """Check that this is the name of an environment variable, not the key itself. The value is never shown."""
    if not _VARIABLE.fullmatch(name) or any(_looks_random(part) for part in name.split("_")):
        raise ValueError(
            f"{what} must be the name of an environment variable, such as OPENAI_API_KEY, and this looks like a key: put the key into a"
            " variable and its name here. Replace the key if the file was shared"
        )


def _looks_random(part: str) -> bool:
    """Return whether a part of a name looks like part of a key."""
    mixed = part.lower() != part != part.upper()
    return len(part) >= 16 and (any(c.isdigit() for c in part) or (len(part) >= 24 and mixed))


def check_header_name(name: str, what: str) -> None:
    """Check that a header can have this name."""
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{what} {name[:100]!r} is not a valid header name: use letters, digits and hyphens")
    if name.lower() in _OURS:
        raise ValueError(f"{what} '{name}' is one that chiron sets itself")


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.split("%", 1)[0])
        except ValueError:
            return False
        return True
    try:
        plain = host.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return _HOST.fullmatch(plain) is not None
