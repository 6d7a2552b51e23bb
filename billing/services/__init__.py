"""Every path's middle: one function per use case; opens the transactions; the only importer of the typed queries."""
