"""Maximum-entropy tree search over language models."""

__version__ = "0.1.0"
