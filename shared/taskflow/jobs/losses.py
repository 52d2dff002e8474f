"""How often a job has lost its worker, and what that costs it.

A lost worker says little about any one of the jobs that ran in it, so a loss leaves the budget of
attempts as it was. What keeps a job that kills its workers from going on for ever: after its first
loss it runs in a process of its own, and the death of that is its own failure, with which its
losses count after all.
"""

from typing import LiteralString

from taskflow.jobs.states import JobEvent

LOSSES_SPARED = 20
"""So many losses are free; from then on each counts, for none can show what the cause is."""


def count_losses(jobs: LiteralString) -> LiteralString:
    """SQL: how many attempts of the row `jobs` were lost since it was last retried by hand."""
    return f"""
        (SELECT count(*)::int FROM job_attempts AS earlier
         WHERE earlier.job_id = {jobs}.id AND earlier.outcome = 'lost'
           AND earlier.finished_at > coalesce(
               (SELECT max(at) FROM job_events
                WHERE job_events.job_id = {jobs}.id AND job_events.event = '{JobEvent.RETRY}'),
               '-infinity'))"""
