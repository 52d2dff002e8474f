"""Jobs in processes of their own; apart from the others, whose consumers then need no fork server.

TASKFLOW_HANDLERS=taskflow_chaos.handlers,taskflow_chaos.process_handlers
"""

import time

from taskflow import SyncJobContext, job
from taskflow_chaos.handlers import Work, note_effect


@job("chaos.process", isolation="process", max_attempts=50, timeout_seconds=120)
def work_in_process(payload: Work, ctx: SyncJobContext) -> dict[str, int]:
    """Wait without ever looking whether to stop: nothing but a kill ends it."""
    note_effect("began", ctx)
    time.sleep(payload.seconds)
    note_effect("done", ctx)
    return {"attempt": ctx.attempt}
