"""Content security policy of the evaluation's pages: only this package's own style and script may run."""

import base64
import hashlib


def policy(style: str, script: str | None = None) -> str:
    """Build the content security policy of a page with this ``<style>`` and optional ``<script>``."""
    allowed = f"; script-src {_hash(script)}" if script is not None else ""
    return f"default-src 'none'; img-src data:; style-src {_hash(style)}{allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
