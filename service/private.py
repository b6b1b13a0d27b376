"""What the service keeps is for its own user: folders are 0700 and files 0600, those that an older version made too."""

import logging
import stat
from pathlib import Path

from sqlalchemy import make_url

from service.settings import Settings

log = logging.getLogger(__name__)


def close(settings: Settings) -> None:
    """Take from others what they may do with the storage's folder and the SQLite database, and warn of it.

    What is below the folder is then closed too. A folder that everybody may write to, such as /tmp, stays as it is.
    """
    paths = [] if "://" in settings.storage else [Path(settings.storage)]
    if settings.database_url.startswith("sqlite") and (file := make_url(settings.database_url).database):
        paths += [Path(file + end) for end in ("", "-wal", "-shm")]
    for path in paths:
        if not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & 0o077:
            continue
        if mode & stat.S_ISVTX:
            log.warning("%s is accessible to everyone; give the service its own folder", path)
            continue
        try:
            path.chmod(mode & 0o700)
        except OSError as error:
            log.warning("others may use %s (%o), and that cannot be changed: %s", path, mode, error.strerror)
        else:
            log.warning("others could use %s (%o); now only its owner can", path, mode)
