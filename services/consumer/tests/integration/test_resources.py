"""What a worker opens."""

from taskflow.settings import ConsumerSettings
from taskflow_consumer import resources
from taskflow_consumer.last_words import LastWords


async def test_claims_and_outcomes_have_steady_plans(clean_database: str) -> None:
    settings = ConsumerSettings(
        _env_file=None,
        database_url=clean_database,
        amqp_url="amqp://nobody:secret@127.0.0.1/taskflow",
        s3_endpoint="http://127.0.0.1:1",
        s3_access_key="nobody",
        s3_secret_key="secret-of-nobody",
    )
    async with (
        resources.database(settings, LastWords()) as database,
        database.connection() as session,
    ):
        assert await session.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
