"""Made-up requests on raw sockets against a strict upstream.

The law (acceptance, way of testing 1): what the upstream parsed is what the caller meant, or the caller was refused and
the upstream saw nothing.
"""
