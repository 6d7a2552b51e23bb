"""The gRPC and HTTP rim of every path: checks who asks, converts, opens the transaction, calls a use case."""
