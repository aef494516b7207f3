"""Mentor-Intern Collaborative Search (the paper's MICS): :func:`chiron.mics.search.search` is where to begin reading."""
