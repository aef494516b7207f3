"""Mentor-Intern Collaborative Search (paper, section 3.2): :func:`chiron.mics.search.search` is where to begin reading."""
