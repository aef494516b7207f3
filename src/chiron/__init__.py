"""Mentor-Intern Collaborative Search and what surrounds it: cases, datasets, evaluation. ``docs/python.md`` describes the public names."""

import lazy_loader

# The names are in __init__.pyi. Nothing is imported before it is used, so that the version and the help are fast.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
