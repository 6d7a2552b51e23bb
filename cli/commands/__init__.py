"""The door: one module per command of `tollway`, imported when it is called."""
