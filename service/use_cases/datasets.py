"""Datasets: inspect them as a search would be made on them."""

from urllib.parse import urlencode

from service import answers
from service.domain.request import DataRequest
from service.inspections import Found
from service.use_cases.errors import NotFound, field_error
from service.use_cases.service import LOOK_SECONDS, Service

SHEET_SECONDS = 60.0
"""How long a page waits for a picture, which it asks for once."""


def inspect(service: Service, project: str | None, dataset: str, data: DataRequest) -> answers.DatasetReport:
    """Look at a dataset for a caller of `project`. Raises `InvalidValue` and `StillLooking`."""
    roots = service.settings.roots_of(project)
    return view(service.inspections.look(dataset, data.options(), data.size(), LOOK_SECONDS, roots=roots), data)


def contact_sheet(service: Service, project: str | None, dataset: str, data: DataRequest) -> bytes:
    """What a network would see of a dataset, as PNG. Raises `InvalidValue`, `StillLooking` and `NotFound`."""
    roots = service.settings.roots_of(project)
    sheet = service.inspections.sheet(dataset, data.options(), data.size(), SHEET_SECONDS, roots)
    if sheet is None:
        raise NotFound("No contact sheet", f"There are no image files to show of {dataset!r}.")
    return sheet


def view(found: Found, data: DataRequest) -> answers.DatasetReport:
    """What is told of a dataset that was looked at."""
    sheet = None
    if found.shown:
        asked = {"dataset": found.report["dataset"]} | data.model_dump(exclude_defaults=True)
        sheet = f"/api/v1/datasets/contact-sheet?{urlencode(asked, doseq=True)}"
    problems = [field_error(**problem) for problem in found.report["problems"]]
    told = {**found.report, "usable": not found.problems, "problems": problems, "contact_sheet": sheet}
    return answers.DatasetReport(**{name: told[name] for name in answers.DatasetReport.__annotations__})
