"""The door: `tollway …`, and the composition root, the only place that knows everything."""
