"""Usage path, before step 1: usage from a file, through the same RPC as everybody's.

Invariant: importing a file again, or going on after an interruption, counts nothing twice, since each row has
a key of its own.
"""

from cli.usage_import.options import ImportFailed, ImportOptions
from cli.usage_import.sender import ImportSummary, import_usage

__all__ = ["ImportFailed", "ImportOptions", "ImportSummary", "import_usage"]
