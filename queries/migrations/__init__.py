"""The migrations as a package of data, `tollway_migrations` when installed: forward only, in order of name."""
