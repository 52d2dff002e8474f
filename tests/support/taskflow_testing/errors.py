"""What stops a test session before its first test."""


class NoTestServers(Exception):
    """No servers are named or running; the text says how to start them."""


class MigrationFailed(Exception):
    """The migrations do not run on an empty database; the text is Alembic's."""
