"""Rewards: what a completion is worth, judged by the inputs and never by the target."""
