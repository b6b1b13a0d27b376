"""Processes that `benchmarks.service` measures beside `yoso serve`.

`insert URL PORT` is the reference of a submission: an endpoint that inserts one row. `stub PROGRAM` is `yoso serve`
whose jobs run PROGRAM in place of Python: what a worker imports is not what a dispatch costs.
"""

import logging
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import JSON, BigInteger
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from service import processes
from service.app import create_app
from service.connections import Connection
from service.settings import Settings
from service.store.database import connect


class Base(DeclarativeBase):
    """The reference's tables."""


class Row(Base):
    """What the reference inserts."""

    __tablename__ = "rows"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)


def insert(url: str, port: int) -> None:
    """Serve `POST /rows` with the settings that `yoso serve` gives uvicorn and the database."""
    engine = connect(url)
    Base.metadata.create_all(engine)
    app = FastAPI()

    @app.post("/rows", status_code=201)
    def add(body: dict[str, Any]) -> dict[str, int]:
        with Session(engine) as session, session.begin():
            row = Row(body=body)
            session.add(row)
            session.flush()
            return {"id": row.id}

    uvicorn.run(app, port=port, access_log=False, log_config=None)


def stub(program: str) -> None:
    """Serve as the environment says, with jobs that run `program`."""
    logging.basicConfig(level="WARNING")
    settings = Settings.from_environment()
    app = create_app(settings)
    app.state.dispatching.dispatcher.python = program
    config = uvicorn.Config(app, settings.host, settings.port, access_log=False, log_config=None, http=Connection)
    processes.Server(config, app).run()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["insert", url, port]:
            insert(url, int(port))
        case ["stub", program]:
            stub(program)
        case _:
            sys.exit(__doc__)
