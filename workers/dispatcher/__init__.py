"""Publish path, steps 2 to 4: the owner of a shard reads it, publishes in order, and deletes what the bus has."""
