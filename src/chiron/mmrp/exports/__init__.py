"""Rows as other trainers take them; a file a format."""
