"""
What every test shares: how hard hypothesis looks, and nothing else.

KUBEWAY_HYPOTHESIS names a profile: `default`, `ci` (the same examples every time)
or `thorough` (many more).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline: a machine with two busy cores is slow at times, and a slow example is not a wrong one.
settings.register_profile(
    "default", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("KUBEWAY_HYPOTHESIS", "default"))
