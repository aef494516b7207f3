"""What may run on the pages of an evaluation: the style and the script that came with this package, and nothing else."""

import base64
import hashlib


def policy(style: str, script: str | None = None) -> str:
    """A content security policy for a page with this ``<style>`` and, if there is one, this ``<script>``."""
    allowed = f"; script-src {_hash(script)}" if script is not None else ""
    return f"default-src 'none'; img-src data:; style-src {_hash(style)}{allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
