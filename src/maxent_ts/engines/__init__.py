"""Engines: p(next token | prefix) for many rollouts at once."""
