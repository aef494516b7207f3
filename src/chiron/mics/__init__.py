"""Mentor-Intern Collaborative Search (MICS). Start reading at :func:`chiron.mics.search.search`."""
