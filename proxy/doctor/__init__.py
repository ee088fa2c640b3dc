"""What is wrong with this machine, its network, the issuers and the services; each finding with its cure.

Every check is a function from what was seen to a finding; `examination` goes and looks.
"""

from proxy.doctor.examination import examine
from proxy.doctor.finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "examine"]
