"""Tasks: examples with prompts, inputs and targets, and how answers are read."""
