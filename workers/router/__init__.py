"""Router: the owner of a partition takes events off the bus and hands them to the consumers, each once."""
