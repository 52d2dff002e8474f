"""What can go wrong when somebody signs in; none of it tells whether there is such a user."""

from taskflow.errors import TaskFlowError


class InvalidToken(TaskFlowError):
    """The access token is not one that is accepted; the text doesn't repeat it."""


class SignInRefused(TaskFlowError):
    """The password is not right, or the refresh token no good (any more)."""


class RegistrationClosed(TaskFlowError):
    """Nobody may register by themselves."""
