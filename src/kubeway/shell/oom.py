"""
Asks the kernel to end others before us when memory runs out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kubeway.records import OomScoreKept, Recorder

OOM_SCORE_ADJ: Final = Path("/proc/self/oom_score_adj")


def set_oom_score_adj(value: int, record: Recorder, path: Path = OOM_SCORE_ADJ) -> None:
    """Give this process the score adjustment `value`, -1000 to 1000.

    A failure is recorded and no more (kube-proxy logs it): lowering the score takes
    CAP_SYS_RESOURCE, and Services are served without. kube-proxy tries twice, for
    the sake of other processes that may be gone; this one is there.
    """
    try:
        if int(path.read_text()) != value:
            path.write_text(str(value))
    except (OSError, ValueError) as error:
        record(OomScoreKept(value, getattr(error, "strerror", None) or str(error)))
