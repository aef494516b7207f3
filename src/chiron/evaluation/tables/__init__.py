"""Comparisons as tables: what stands in them, and how they are written for a terminal, Markdown, LaTeX and HTML."""
