"""Runs in a container: an office's issuer and its NSI service, reached by their neighbours as http://office:9000.

Both verify for real (signatures, audience, expiry), so an answer with rows has been through the whole journey.
"""

import asyncio
import signal

from proxy.clock import SystemClock
from proxy.demo.issuer import DemoIssuer
from proxy.demo.nsi import NsiService
from proxy.demo.serving import Listener, bind

ORIGIN = "http://office:9000"


async def main() -> None:
    clock = SystemClock()
    issuer = DemoIssuer(ORIGIN, clock=clock)
    service = NsiService(issuer.url, clock=clock, allow_anonymous=False)
    for app, port in ((issuer, 9000), (service, 9001)):
        await Listener(app, bind("0.0.0.0", port), clock=clock).open()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)  # process 1 has no default for it
    await stop.wait()


asyncio.run(main())
