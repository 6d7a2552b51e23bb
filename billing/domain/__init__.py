"""Every path: the pure rules. No I/O, no clock, no proto; time is always an argument."""
