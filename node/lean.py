"""structlog without what it takes along.

Where rich is installed structlog imports it, to print tracebacks in colour: 8 MB and a fifth of the start in each
process. A node's processes write JSON lines. They take structlog from here, before any other module imports it; whoever
wants rich after that gets it.
"""

import sys

_HIDES = "rich" not in sys.modules
if _HIDES:
    sys.modules["rich"] = None  # type: ignore[assignment]  # to structlog it is not installed

import structlog as structlog  # noqa: E402

if _HIDES:
    del sys.modules["rich"]
