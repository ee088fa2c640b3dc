# The image holds the program and no secret: sign-ins live in the volume at /var/lib/bearerproxy, secrets in /run/secrets.

ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
WORKDIR /src
# Two environments: the tools of the build stay here, the image gets no installer.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/bearerproxy
COPY requirements.lock build.lock ./
RUN /tools/bin/pip install --no-cache-dir --require-hashes -r build.lock \
 && /tools/bin/pip --python /opt/bearerproxy/bin/python install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
RUN /tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
 && /tools/bin/pip --python /opt/bearerproxy/bin/python install --no-cache-dir --no-deps dist/*.whl

FROM ${PYTHON}
LABEL org.opencontainers.image.title="bearerproxy" \
      org.opencontainers.image.description="A local reverse proxy that signs any HTTP tool in" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="https://github.com/bearerproxy/bearerproxy" \
      org.opencontainers.image.documentation="https://github.com/bearerproxy/bearerproxy/blob/main/docs/compose.md"
# Issuers and upstreams are believed by the system's store of authorities: a base without one fails here, not at the
# first sign-in. A named volume takes over the folder's owner and mode when it is first mounted there; a VOLUME line
# would leave an anonymous volume behind with every container.
RUN test -s /etc/ssl/certs/ca-certificates.crt \
 && groupadd --gid 10001 bearerproxy \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/bearerproxy --shell /usr/sbin/nologin bearerproxy \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/bearerproxy
COPY --from=build /opt/bearerproxy /opt/bearerproxy
COPY config/compose.toml /etc/bearerproxy/proxy.toml
ENV PATH=/opt/bearerproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BEARERPROXY_CONFIG=/etc/bearerproxy/proxy.toml
# Python's image comes without bytecode of the standard library, and the user may write none: each start and each health
# check would compile two hundred modules anew, half a second of a processor. Help imports all commands, though not what reads the configuration.
RUN PYTHONDONTWRITEBYTECODE='' bearerproxy --help > /dev/null \
 && PYTHONDONTWRITEBYTECODE='' python3 -c 'import proxy.config.loading'
USER 10001:10001
WORKDIR /var/lib/bearerproxy
EXPOSE 8400
STOPSIGNAL SIGTERM
# Liveness only: a proxy that waits for its first sign-in is well, and `exec ... login` must be possible.
HEALTHCHECK --interval=15s --timeout=10s --start-period=15s --retries=3 CMD ["bearerproxy", "health"]
ENTRYPOINT ["bearerproxy"]
CMD ["serve"]
