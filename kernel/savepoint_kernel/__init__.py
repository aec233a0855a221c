"""The Savepoint kernel: everything that runs inside the user's interpreter."""

__version__ = "0.1.0"
