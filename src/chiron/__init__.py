"""Chiron."""
