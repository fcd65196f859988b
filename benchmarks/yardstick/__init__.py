"""Models whose posterior π(x) ∝ p(x)·exp(λ r(x)) is known exactly, and what is measured against it. Run by benchmarks/exact.py."""
