"""What opening connections asks of the machine."""

import inspect
import subprocess
import sys

import pytest

from proxy.transport.dialling import raise_mmap_threshold

READS = """
import os, resource, sys
source, sink = os.pipe()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(1000):
    os.write(sink, b"x" * 100)
    os.read(source, 256 * 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""What the event loops do with TLS: a block of 256 KiB for each read, shrunk to what there was."""


@pytest.mark.skipif(sys.platform != "linux", reason="the cure is one for glibc's malloc")
def test_reads_of_tls_cost_no_page_faults() -> None:
    """speed 3: the mmap trap; in a process that imports nothing, since any large block freed before hides it."""

    def page_faults(preparation: str) -> int:
        program = [sys.executable, "-I", "-c", preparation + READS]
        return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)

    assert page_faults("") > 500, "the allocator has no such trap any more: the cure can go"
    assert page_faults(inspect.getsource(raise_mmap_threshold) + "\nraise_mmap_threshold()") < 100
