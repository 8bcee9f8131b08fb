"""The login of a dashboard that others can reach: the provider's file and the list of people, checked before it starts.

``VMOER_AUTH_FILE`` is a TOML file with a section ``[auth]`` as ``st.login`` reads it (OpenID Connect)::

    [auth]
    redirect_uri = "https://lab.example.org/oauth2callback"
    cookie_secret = "…at least 32 random characters…"
    client_id = "…"
    client_secret = "…"
    server_metadata_url = "https://provider.example.org/.well-known/openid-configuration"
"""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.errors import ServeError
from pipelines.settings import LOOPBACK, Settings

KEYS = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
MIN_SECRET = 32


def check_login(settings: Settings) -> str:
    """The host name under which readers come back from the provider; raises :class:`ServeError` if no login can work.

    Messages name keys, never values: the file holds secrets.
    """
    path = Path(settings.auth_file).expanduser()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ServeError(f"VMOER_AUTH_FILE: cannot read {path.name}: {error.strerror}") from None
    except ValueError:
        raise ServeError(f"VMOER_AUTH_FILE: {path.name} is not valid TOML") from None
    section = content.get("auth")
    if not isinstance(section, dict):
        raise ServeError(f"VMOER_AUTH_FILE: {path.name} has no section [auth]; docs/security.md shows one")
    for key in KEYS:
        if not isinstance(section.get(key), str) or not section[key]:
            raise ServeError(f"VMOER_AUTH_FILE: [auth] in {path.name} has no {key}; docs/security.md shows one")
    if len(section["cookie_secret"]) < MIN_SECRET:
        raise ServeError(f"VMOER_AUTH_FILE: cookie_secret is shorter than {MIN_SECRET} characters")
    for key in ("redirect_uri", "server_metadata_url"):
        parts = urlsplit(section[key])
        if not parts.hostname or (parts.scheme != "https" and parts.hostname not in LOOPBACK):
            raise ServeError(f"VMOER_AUTH_FILE: {key} must begin with https://")
    redirect = urlsplit(section["redirect_uri"])
    if redirect.path != "/oauth2callback":
        raise ServeError("VMOER_AUTH_FILE: redirect_uri must end with /oauth2callback")
    if not settings.allowed_users:
        raise ServeError(
            "a login lets in whom VMOER_ALLOWED_USERS lists, and it is empty; give addresses, *@domain, or * for all "
            "that the provider lets in"
        )
    if importlib.util.find_spec("authlib") is None:
        raise ServeError("a login needs the extra `auth`: pip install -c constraints.txt -e '.[auth]'")
    return str(redirect.hostname)
