"""The control plane: the status page at `/` and everything of ours under `/-/`.

It tells and never does: GET and HEAD only, no state of its own, no token in reach. The guard stands in front of it.
"""

from proxy.control.routes import control_app
from proxy.control.view import ControlView, IdentityStatus

__all__ = ["ControlView", "IdentityStatus", "control_app"]
