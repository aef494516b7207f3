"""Configurations to begin from; ``chiron init`` writes them."""

from importlib.resources import files

NAMES = ("paper", "ollama", "offline", "chiron-o1")
"""The paper's team behind its usual endpoints; a team behind Ollama; the embedded one; the published models, to be measured."""


def template(name: str) -> str:
    """A configuration file as text."""
    return (files("chiron.mics") / "configurations" / f"{name}.yaml").read_text("utf-8")
