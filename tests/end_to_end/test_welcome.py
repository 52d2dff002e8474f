"""Who registers is welcomed by a mail, which goes the way of every job."""

import base64
import secrets

import asyncpg

from taskflow.sealing.form import json_sealed_by
from taskflow_testing.mail_server import MailServer
from taskflow_testing.services import NewServices, Servers
from taskflow_testing.waiting import eventually

ADA, BOB = "ada@example.com", "bob@example.com"
PASSWORD = "correct horse battery"
SEALED_WITH = "first"
KEY = f"{SEALED_WITH}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


async def test_who_registers_gets_one_mail(
    new_services: NewServices, real_servers: Servers
) -> None:
    async with MailServer() as server:
        services = new_services(
            real_servers,
            payload_keys=KEY,
            smtp_host="127.0.0.1",
            smtp_port=server.port,
            smtp_security="none",
            smtp_from="TaskFlow <jobs@taskflow.example>",
        )
        await services.start_api()
        await services.start_consumer()
        await services.start_scheduler()
        async with services.client() as http:
            del http.headers["X-API-Key"]
            # The second time the address is taken, which nobody is told, its owner included.
            for email in (ADA, ADA, BOB):
                person = {"email": email, "password": PASSWORD}
                answer = await http.post("/api/v1/auth/register", json=person)
                assert answer.status_code == 202, answer.text

            async def both_are_done() -> list[str] | None:
                documents = await stored_documents(real_servers.database_url)
                return documents if len(documents) == 4 else None

            stored = await eventually(both_are_done, timeout=30)
            form = {"username": ADA, "password": PASSWORD}
            tokens = (await http.post("/api/v1/auth/token", data=form)).json()
            http.headers["Authorization"] = f"Bearer {tokens['access_token']}"
            (job,) = (await http.get("/api/v1/jobs")).json()["items"]
    assert (job["type"], job["attempt"], job["payload"]["to"]) == ("email.send", 1, [ADA])
    assert sorted(mail.recipients for mail in server.mails) == [[ADA], [BOB]]
    (mail,) = (mail for mail in server.mails if mail.recipients == [ADA])
    assert mail.sender == "jobs@taskflow.example"
    assert mail.message["To"] == ADA
    assert mail.message["Subject"] == "Welcome to TaskFlow"
    assert "has registered this address" in mail.message.get_content()
    assert PASSWORD not in mail.content.decode()
    assert job["result"] == {"message_id": mail.message["Message-ID"], "recipients": [ADA]}
    assert [json_sealed_by(document) for document in stored] == [SEALED_WITH] * 4


async def stored_documents(database_url: str) -> list[str]:
    """The payload and the result of every job that is completed, as they lie in their columns."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT payload, result FROM jobs WHERE state = 'completed'")
    finally:
        await connection.close()
    return [document for row in rows for document in row]
