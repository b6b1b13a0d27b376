"""What admins do about webhooks: made with a secret that is shown once, listed, tested and deleted.

A URL is checked here, so that whoever gives it learns what is wrong with it, and again whenever something is sent.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from nas_core.errors import InvalidValue
from service import notifications
from service.addresses import NowhereToSend, Resolve, addresses_of, resolve
from service.callers import Caller
from service.domain.grants import NAME, NotAllowed
from service.domain.receivers import ACCEPTED, Event, Network, is_notified, place_of
from service.store.database import reading
from service.store.models import Delivery, Webhook
from service.store.webhooks import WebhookStore


class Webhooks:
    """The webhooks in a store, as those may use them who ask; `networks` are those inside that may be sent to, and
    `schemes` those of notifications.
    """

    def __init__(
        self, store: WebhookStore, networks: Sequence[Network], schemes: Sequence[str], resolve: Resolve = resolve
    ) -> None:
        self.store, self.networks, self.schemes, self.resolve = store, networks, schemes, resolve

    def check(self, by: Caller, url: str, project: str | None) -> tuple[str, str | None]:
        """The project that a new webhook would be of: the asker's own, else `default`, unless it is named; and how the
        URL of a notification is shown.

        To be asked before a transaction begins, since names are looked up. Raises `InvalidValue` and `NotAllowed`.
        """
        by.grant.check_manages()
        project = project or by.project or "default"
        if not NAME.fullmatch(project):
            raise InvalidValue("project", project, "not a name", "a project's name")
        if by.project not in (None, project):
            raise NotAllowed(f"{by.grant.whose} is of the project {by.project} alone.")
        if is_notified(url):
            return project, notifications.check(url, self.schemes, self.networks, self.resolve)
        try:
            addresses_of(url, self.networks, self.resolve)
        except NowhereToSend as error:
            told = f"{ACCEPTED}; the operator may allow others by YOSO_WEBHOOK_NETWORKS"
            raise InvalidValue("url", "…", str(error), told) from error
        return project, None

    def make(
        self, project: str, url: str, events: Sequence[Event], within: Session, shown: str | None = None
    ) -> Webhook:
        """A new webhook at a URL that was checked for that project. Raises `OverQuota`."""
        host = place_of(url)[0] if shown is None else url.partition(":")[0].lower()
        return self.store.make(project, url, host, events, within, shown)

    def page(self, by: Caller, limit: int, after: str = "", project: str | None = None) -> Sequence[Webhook]:
        """At most `limit` webhooks that `by` manages, by id, from behind `after`. Raises `NotAllowed`."""
        by.grant.check_manages()
        return self.store.page(limit, after, by.project or project)

    def get(self, by: Caller, webhook_id: str) -> Webhook:
        """The webhook of that id. Raises `NotAllowed` and `UnknownWebhook`."""
        by.grant.check_manages()
        with reading(self.store.engine) as session:
            return self.store.get(webhook_id, by.project, session)

    def deliveries(
        self, by: Caller, webhook_id: str, limit: int, after: tuple[float, str] | None
    ) -> Sequence[Delivery]:
        """At most `limit` messages to a webhook, newest first. Raises `NotAllowed` and `UnknownWebhook`."""
        by.grant.check_manages()
        return self.store.deliveries(webhook_id, by.project, limit, after)

    def test(self, by: Caller, webhook_id: str, within: Session) -> Delivery:
        """A message that is sent to show whether it arrives; a webhook that was switched off is on again if it does.

        Raises `NotAllowed` and `UnknownWebhook`.
        """
        by.grant.check_manages()
        return self.store.test(webhook_id, by.project, within)

    def delete(self, by: Caller, webhook_id: str, within: Session) -> Webhook:
        """Send nothing more to a webhook, and forget it. Raises `NotAllowed` and `UnknownWebhook`."""
        by.grant.check_manages()
        return self.store.delete(webhook_id, by.project, within)
