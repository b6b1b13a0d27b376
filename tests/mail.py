"""A real server for e-mail on this machine: aiosmtpd, which keeps what it gets."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from service.dispatch.local_ray import free_ports

USER, PASSWORD = "yoso", "a-password-of-yoso"


@dataclass
class MailServer:
    """What was sent to a server, and what it answers."""

    port: int
    got: list[Message] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list)
    answer: str = "250 OK"

    @property
    def url(self) -> str:
        """The notification's URL by which it is sent to, with the password."""
        return (
            f"mailto://{USER}:{PASSWORD}@127.0.0.1:{self.port}?from=yoso@example.org&to=ann@example.org&mode=insecure"
        )

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep a message."""
        if self.answer.startswith("250"):
            self.got.append(message_from_bytes(envelope.content))
        return self.answer

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> AuthResult:
        """Take the password alone."""
        assert isinstance(given, LoginPassword)
        self.passwords.append(given.password.decode())
        return AuthResult(success=given.password.decode() == PASSWORD, handled=False)


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """A server at a free port."""
    made = MailServer(free_ports(1)[0])
    controller = Controller(
        made, hostname="127.0.0.1", port=made.port, authenticator=made.authenticate, auth_require_tls=False
    )
    controller.start()
    try:
        yield made
    finally:
        controller.stop()
