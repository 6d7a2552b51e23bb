"""What `tollway replay` asks for, and what it shows."""
