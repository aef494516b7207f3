"""Asking models: a :class:`Call` goes in, a :class:`Reply` comes out, and the ledger remembers both."""
