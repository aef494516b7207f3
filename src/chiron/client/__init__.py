"""Ask models: a :class:`Call` goes in, a :class:`Reply` comes out, and the ledger stores both."""
