"""Searches of an evaluation on a Ray cluster."""
