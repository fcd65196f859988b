"""What `benchmarks/engine.py` is made of: model shapes, this engine, and the other ways to decode."""
