# SPDX-License-Identifier: Apache-2.0
"""Loading an application: what EDGEPAAS_APP names, imported and checked."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.app import Application
from edgepaas.errors import ConfigurationError
from edgepaas.hosting.installed import find_installed, installed_applications, load_target
from edgepaas.hosting.refusal import as_application_error, refusal
from edgepaas.settings.own import own_settings

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def load_application(name: str) -> Application:
    """Return the application called *name*: an installed one, or ``module:attribute``.

    A module is looked for in the current folder too, after everything that is installed.
    Raises ConfigurationError, in one line which names EDGEPAAS_APP, what went wrong and
    the way out; the traceback is logged at DEBUG.
    """
    target = name.strip()
    try:
        loaded = _load(target)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:  # a module may even end the interpreter
        raise refusal(target, error) from error
    if not isinstance(loaded, Application):
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: that is a {type(loaded).__name__}, not an "
            "edgepaas.app.Application; name the attribute that holds one"
        )
    if loaded.blueprints is None and loaded.wsgi is None:
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: the application has neither blueprints nor a WSGI callable; "
            "give one of blueprints= and wsgi="
        )
    try:
        own_settings(loaded.settings)
    except ConfigurationError as error:
        raise ConfigurationError(f"EDGEPAAS_APP={target}: {error}") from None
    # The object is frozen for everything but its loader, which alone knows the name.
    object.__setattr__(loaded, "loaded_as", target)
    return loaded


def _load(target: str) -> object:
    module, colon, attribute = target.partition(":")
    if not colon and (installed := find_installed(target)):
        return load_target(installed)
    if not colon or not module or not attribute:
        known = ", ".join(sorted(installed_applications())) or "none"
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: there is no such application; installed: {known}; "
            "or name one as module:attribute"
        )
    _make_importable(target, module)
    value: object = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ConfigurationError(f"EDGEPAAS_APP={target}: {_no_attribute(value, part)}")
        value = getattr(value, part)
    return value


def _make_importable(target: str, module: str) -> None:
    """Have *module* found, in the current folder if nowhere else."""
    top = module.partition(".")[0]
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: the application cannot be loaded: {module} is no module's "
            "name; write module:attribute, e.g. notes:application for notes.py"
        )
    if top in sys.modules or importlib.util.find_spec(top) is not None:
        return
    here = _current_folder()
    # Last, so that nothing in it takes the place of what is installed.
    if here and here not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()
    if importlib.util.find_spec(top) is None:
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: there is no module {top}, neither installed nor in the "
            f"current folder{f' {here}' if here else ''}; start from the folder that holds it, "
            "or install it"
        )


def _current_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted under us: there is nothing in it
        return ""


def _no_attribute(holder: object, name: str) -> str:
    import difflib

    called = getattr(holder, "__name__", type(holder).__name__)
    has = sorted(key for key, value in vars(holder).items() if isinstance(value, Application))
    near = has or difflib.get_close_matches(name, vars(holder), n=3)
    way = f"name {' or '.join(near)}" if near else "have it hold an edgepaas Application"
    return f"{called} has no attribute {name}; {way}"


def metadata_of(application: Application) -> "MetaData | None":
    """Return the models' MetaData, checked; imports them when *models* is a function.

    Raises ConfigurationError where they cannot be imported, and for a table that could not
    be forwarded as its kind promises.
    """
    with as_application_error(application, "its models"):
        found = application.models() if callable(application.models) else application.models
        if found is None:
            return None
        _check_models(found)
        return found


def _check_models(found: object) -> None:
    from sqlalchemy import MetaData

    from edgepaas.database.model import check_metadata

    if not isinstance(found, MetaData):
        kind = type(found).__name__
        raise TypeError(
            f"models is a {kind}, not SQLAlchemy's MetaData: write models=Model.metadata"
        )
    check_metadata(found)
