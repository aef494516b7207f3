"""Comparison tables: their content, and their output for a terminal, Markdown, LaTeX and HTML."""
