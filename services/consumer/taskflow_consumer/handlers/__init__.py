"""The job types that every consumer can run."""

from collections.abc import Collection

from taskflow.errors import ConfigurationError
from taskflow.sdk.job_type import JobType
from taskflow.sdk.registry import Registry

BUILT_IN_HANDLERS = (
    "taskflow_consumer.handlers.trial",
    "taskflow_consumer.handlers.http_request",
    "taskflow_consumer.handlers.email_send",
)


def built_in_job_types(disabled: Collection[str]) -> list[JobType]:
    """The built-in job types but those whose names are `disabled`.

    Raises:
        ConfigurationError: a name is none of theirs.
    """
    built_in = Registry.from_modules(BUILT_IN_HANDLERS)
    for name in disabled:
        if name not in built_in:
            raise ConfigurationError(
                f"TASKFLOW_DISABLED_BUILT_INS: {name!r} is none of {', '.join(built_in.names)}"
            )
    return [job_type for job_type in built_in if job_type.name not in disabled]
