"""Procrastinate: its table is the queue, and its row the job."""

import json

from procrastinate import App, JobContext, PsycopgConnector

from .settings import DATABASE_URL, QUEUE

app = App(connector=PsycopgConnector(conninfo=DATABASE_URL, min_size=4, max_size=20))

_KEEP_RESULT = """
INSERT INTO results (job_id, result) VALUES (%(job_id)s, %(result)s)
ON CONFLICT (job_id) DO UPDATE SET result = excluded.result
"""


@app.task(queue=QUEUE, pass_context=True)
async def echo(context: JobContext, text: str) -> None:
    """Do a job."""
    await context.app.connector.execute_query_async(
        _KEEP_RESULT, job_id=context.job.id, result=json.dumps({"text": text})
    )
