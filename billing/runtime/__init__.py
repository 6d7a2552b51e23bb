"""The machine room of every path: settings, clock, database, bus, telemetry, embedded servers."""
