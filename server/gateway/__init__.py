"""The rim over HTTP: JSON for those who do not speak gRPC, by the routes that the contract names."""
