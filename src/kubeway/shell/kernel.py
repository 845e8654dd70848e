"""
Which kernel this is.
"""

from __future__ import annotations

import os
import re


def release(text: str = "") -> tuple[int, int]:
    """Its version, major and minor (6, 1); (0, 0) if it does not say."""
    found = re.match(r"(\d+)\.(\d+)", text or os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
