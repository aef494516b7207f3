"""Pseudonyms: the same study always gets the same name, and nobody without the salt can find the study by it."""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from chiron.errors import DiskError, InputError

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}")


class Pseudonyms:
    """HMAC-SHA256 of ids under a salt; 64 bits of it, so that among a million ids two alike are a matter of 1 in 37 million."""

    def __init__(self, salt: bytes) -> None:
        """``salt``: at least 16 random bytes."""
        self._salt = salt

    def name(self, kind: str, value: str) -> str:
        """A pseudonym such as ``case-5f1d0c9a77e2b613``. ``kind`` keeps a patient and a study of one number apart."""
        return f"{kind}-{hmac.new(self._salt, f'{kind}:{value}'.encode('utf-8', 'replace'), hashlib.sha256).hexdigest()[:16]}"


def load_pseudonyms(path: Path) -> Pseudonyms:
    """Read the salt, or make one that only its owner may read.

    Raises:
        InputError: the file holds no salt.
        DiskError: it can be neither read nor made.
    """
    try:
        try:
            text = path.read_text("ascii").strip()
        except FileNotFoundError:
            text = secrets.token_hex(32)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(text + "\n")
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    except OSError as error:
        raise DiskError(f"salt {path} cannot be read or made: {error.strerror}") from error
    if len(salt) < 16:
        raise InputError(f"{path} holds no salt (at least 32 hexadecimal digits): take it away, and pseudonyms begin anew")
    return Pseudonyms(salt)


def folder_name(case_id: str) -> str:
    """A case's folder under ``images/``: its id where that is a plain file name, else a hash of it."""
    if _PLAIN.fullmatch(case_id):
        return case_id
    return f"id-{hashlib.sha256(case_id.encode('utf-8', 'replace')).hexdigest()[:16]}"
