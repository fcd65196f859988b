"""Search methods: generators for one prompt, and the driver that runs many at once."""
