"""`python -m kubeway`: the same as the `kubeway` command."""

from __future__ import annotations

import sys

from kubeway.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
