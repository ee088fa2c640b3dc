"""HAProxy with a fixed token, one thread."""

from bench.peers.launch import Launch, mounted
from bench.programs import first_line, program
from bench.upstream import NAME, TOKEN, Site


def haproxy(site: Site) -> Launch:
    path = program("haproxy", how="apt-get install haproxy")
    trust = f"ssl ca-file {site.ca_file} verify required sni str({NAME})"
    configuration = f"""
global
    nbthread 1
    maxconn 3000
    tune.maxrewrite 4096  # room for the token in front of a body that fills the buffer
defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    http-reuse always
frontend local
    bind 127.0.0.1:{site.port} backlog 4096
    http-request set-header Authorization "Bearer {TOKEN}"
    use_backend over_tls if {{ path_beg /tls/ }}
    default_backend in_plain
backend over_tls
    http-request replace-path /tls/(.*) /\\1
    server upstream 127.0.0.1:{site.tls_port} pool-max-conn 512 {trust}
backend in_plain
    http-request replace-path /plain/(.*) /\\1
    server upstream 127.0.0.1:{site.plain_port} pool-max-conn 512
"""
    return Launch(
        (path, "-db", "-f", site.write("haproxy.cfg", configuration)),
        "HAProxy " + first_line(path, "-v").split()[2],
        mounted(site),
    )
