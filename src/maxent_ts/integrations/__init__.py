"""Adapters to other people's programs. Nothing in the package imports them; each needs its own extra."""
