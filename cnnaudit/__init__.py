"""Find out whether a CNN looks at the right thing, and keeps doing so when the scene changes."""

__version__ = "0.1.0"
