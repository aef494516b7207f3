"""Mentor-Intern Collaborative Search and what surrounds it. What is offered here is described in ``docs/python.md``."""

from importlib.metadata import version

__version__ = version("chiron-med")
