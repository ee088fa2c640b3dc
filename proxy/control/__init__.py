"""The control plane: the status page at `/` and everything of ours under `/-/`.

It tells and never does: GET and HEAD only, no state of its own, no token in reach. The guard stands in front of it.
"""

from proxy.control.on_demand import OnDemand
from proxy.control.view import ControlView, IdentityStatus

__all__ = ["ControlView", "IdentityStatus", "OnDemand"]
