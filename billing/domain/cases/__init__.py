"""`tollway pricing check`: worked cases, run through the rules that invoices use.

Invariant: a case is passed, failed, or unsupported under the name of what is missing; nothing in
it is guessed or ignored.
"""

from billing.domain.cases.compare import Failed, Outcome, Passed, Unsupported
from billing.domain.cases.run import run_case

__all__ = ["Failed", "Outcome", "Passed", "Unsupported", "run_case"]
