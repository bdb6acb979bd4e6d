"""The command line. Commands parse, call the library and print; torch is imported only by the command that needs it."""

from .main import main

__all__ = ["main"]
