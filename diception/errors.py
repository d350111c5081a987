"""Errors that a user can mend, besides ValueError."""


class FaultyData(RuntimeError):
    """Data of which too much is corrupt, or of which nothing serves a task."""
