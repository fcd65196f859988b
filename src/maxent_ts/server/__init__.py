"""`maxent-ts serve`: searches over HTTP, in the shape of OpenAI's API. Needs the extra `serve`."""
