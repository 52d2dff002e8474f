"""Registering: a user, a tenant of its own, and a mail that welcomes it, in one transaction."""

from uuid_utils.compat import uuid7

from taskflow.access import users
from taskflow.access.audit_log import Act, record
from taskflow.access.users import NewUser
from taskflow.db.tenants import TenantConnection
from taskflow.errors import TaskFlowError
from taskflow.jobs.lanes import Lane
from taskflow.jobs.new_job import NewJob, Submission
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.jobs.submission import submit
from taskflow.jobs.submission_answers import Answer
from taskflow.relay import Dispatch, Relay
from taskflow.sealing.ring import SealingKeyRing
from taskflow_api.database_access import Writes
from taskflow_api.users.errors import RegistrationClosed
from taskflow_api.users.passwords import Passwords
from taskflow_api.users.visits import Visit

_MAIL_TYPE = "email.send"
_WELCOME = """\
Welcome to TaskFlow.

Somebody, most likely you, has registered this address. Sign in with it and your password: POST
/api/v1/auth/token. If it was not you, do nothing: without the password nobody signs in, and there
will be no other mail.
"""


class _AddressTaken(TaskFlowError):
    """Rolls back what a registration has written."""


class Registrations:
    """Makes users."""

    def __init__(
        self,
        writes: Writes,
        passwords: Passwords,
        relay: Relay,
        ring: SealingKeyRing,
        *,
        is_open: bool,
        with_mail: bool,
    ) -> None:
        self._writes = writes
        self._passwords = passwords
        self._relay = relay
        self._ring = ring
        self._is_open = is_open
        self._with_mail = with_mail

    def require_open(self) -> None:
        """Pass where anybody may register.

        Raises:
            RegistrationClosed: nobody may.
        """
        if not self._is_open:
            raise RegistrationClosed("Who runs this service makes its users.")

    async def register(self, email: str, password: str, visit: Visit) -> None:
        """Make a user, unless its address is taken, of which nothing can be seen.

        Raises:
            ServiceUnavailable: PostgreSQL can't be asked; there may be a user now.
        """
        user = NewUser(uuid7(), uuid7(), email, await self._passwords.hash(password))
        mail = _welcome(user, self._ring) if self._with_mail else None
        async with self._writes.connection(user.tenant_id) as connection:
            try:
                async with connection.transaction():
                    accepted = await self._write(connection, user, mail, visit)
            except _AddressTaken:
                return
        if mail is not None:
            self._publish(mail, accepted)

    async def _write(
        self, connection: TenantConnection, user: NewUser, mail: NewJob | None, visit: Visit
    ) -> list[Answer]:
        await users.add_tenant(connection, user.tenant_id)
        accepted: list[Answer] = []
        if mail is not None:
            accepted = await submit(connection, [mail], with_pointers=self._relay.ready)
        act = Act("user.register", "user", str(user.id), after={"email": user.email})
        await record(connection, user.tenant_id, visit.of_user(user.id), act)
        # At last, so that it takes as long to find the address taken.
        if not await users.add_user(connection, user):
            raise _AddressTaken
        return accepted

    def _publish(self, mail: NewJob, accepted: list[Answer]) -> None:
        (answer,) = accepted
        if isinstance(answer, Submission) and answer.pointer_at is not None:
            lane = Lane(mail.queue, mail.priority)
            self._relay.send([Dispatch(Pointer(mail.id, lane, mail.type, answer.pointer_at))])


def _welcome(user: NewUser, ring: SealingKeyRing) -> NewJob:
    job_id = uuid7()
    payload = {"to": [user.email], "subject": "Welcome to TaskFlow", "text": _WELCOME}
    return NewJob(
        id=job_id,
        tenant_id=user.tenant_id,
        type=_MAIL_TYPE,
        queue="default",
        priority=Priority.MEDIUM,
        payload=payload,
        sealed_payload=ring.sealed_payload(user.tenant_id, job_id, payload),
        max_attempts=6,
        timeout_seconds=300.0,
        name="welcome mail",
    )
