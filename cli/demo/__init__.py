"""The door: `tollway demo`, the whole house on one month of real usage, checked against the raw input."""
