"""The pages."""

from fastapi import FastAPI


def add_dashboard(app: FastAPI) -> None:
    """Add the pages to the service."""
