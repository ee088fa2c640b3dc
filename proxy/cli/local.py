"""Questions to the proxy that is running on this machine, over its own port."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

from proxy.config import ServerSettings
from proxy.headers import API_KEY_FIELD

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """What the running proxy answered."""

    status: int
    body: bytes

    def json(self) -> Any:  # Any: JSON
        return json.loads(self.body)


def ask(server: ServerSettings, path: str, *, timeout_seconds: float = 5.0) -> LocalAnswer | None:
    """Return the running proxy's answer to GET `path`, or None if nothing (or something else) answers there."""
    host = _ANYWHERE.get(server.host, server.host)
    connection = http.client.HTTPConnection(host, server.port, timeout=timeout_seconds)
    fields = {"Host": f"localhost:{server.port}", "Accept": "application/json"}
    if server.api_key is not None:
        fields[API_KEY_FIELD.decode()] = server.api_key.reveal()
    try:
        connection.request("GET", path, headers=fields)
        response = connection.getresponse()
        return LocalAnswer(response.status, response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
