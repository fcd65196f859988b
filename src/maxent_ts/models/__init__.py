"""Models that turn time series into input embeddings."""
