"""nginx as a reverse proxy with a fixed token, streaming both ways as we do."""

from bench.peers.launch import Launch, mounted
from bench.programs import first_line, program
from bench.upstream import NAME, TOKEN, Site


def nginx(site: Site) -> Launch:
    path = program("nginx", how="apt-get install nginx-light")
    spools = " ".join(f"{kind}_temp_path {site.folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    configuration = f"""
daemon off; master_process off; pid {site.folder}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off; client_body_temp_path {site.folder}/body; {spools}
    keepalive_requests 1000000000; client_max_body_size 0;
    proxy_http_version 1.1; proxy_request_buffering off; proxy_max_temp_file_size 0;
    proxy_set_header Connection ""; proxy_set_header Authorization "Bearer {TOKEN}";
    proxy_ssl_verify on; proxy_ssl_trusted_certificate {site.ca_file}; proxy_ssl_name {NAME}; proxy_ssl_server_name on;
    upstream over_tls {{ server 127.0.0.1:{site.tls_port}; keepalive 512; keepalive_requests 1000000000; }}
    upstream in_plain {{ server 127.0.0.1:{site.plain_port}; keepalive 512; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{site.port} backlog=4096;
        location /tls/ {{ proxy_pass https://over_tls/; }}
        location /plain/ {{ proxy_pass http://in_plain/; }}
    }}
}}
"""
    return Launch(
        (path, "-e", "stderr", "-c", site.write("nginx.conf", configuration)),
        first_line(path, "-v").partition(": ")[2].replace("/", " "),
        mounted(site),
    )
