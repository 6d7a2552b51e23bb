"""The bus: one protocol (`base`), three buses (`nats`, `kafka`, `noop`), one door (`connect`)."""
