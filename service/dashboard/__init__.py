"""The dashboard: pages for people, rendered on the server and kept live by server-sent events."""

from service.dashboard.pages import add_dashboard

__all__ = ["add_dashboard"]
