"""The OpenAPI document of the HTTP API, generated from proto/."""
