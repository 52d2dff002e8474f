"""What can go wrong with keys, said without knowing HTTP."""

from uuid import UUID

from taskflow.errors import TaskFlowError


class ApiKeyNotFound(TaskFlowError):
    """No key with this id in this tenant."""

    def __init__(self, api_key_id: UUID) -> None:
        super().__init__(f"No API key with the id {api_key_id}.")


class ApiKeyConflict(TaskFlowError):
    """The key's state doesn't allow what was asked."""
