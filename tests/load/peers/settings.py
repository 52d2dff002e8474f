"""Where the servers are."""

import os

DATABASE_URL = os.environ["PEER_DATABASE_URL"]
AMQP_URL = os.environ["PEER_AMQP_URL"]

QUEUE = "echo"


def sqlalchemy_url(driver: str) -> str:
    """The database's address for SQLAlchemy with this driver."""
    return DATABASE_URL.replace("postgresql://", f"postgresql+{driver}://", 1)
