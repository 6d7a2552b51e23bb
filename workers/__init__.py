"""The background rim of every path: workers that claim, do, and record, one bounded step at a time."""
