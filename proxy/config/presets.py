"""Presets: a deployment named in two lines becomes one identity and one upstream for each of its services.

An expansion is made of tables as a person would have written them, so that [upstream.provena_data] can override single
keys of it and `config show` can print it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from proxy.config.addresses import parse_url
from proxy.config.models import DotstatPreset, ProvenaPreset
from proxy.config.values import AnyTable, Finding, Key
from proxy.errors import Mistake
from proxy.identities import Grant
from proxy.secret_refs import Secret

TOKEN_VARIABLES = ("PROVENA_API_TOKEN", "PROVENA_OFFLINE_TOKEN", "RRAP_OFFLINE_TOKEN")
"""By which the existing Provena tools take an offline token; the first one that is set counts."""
OFFLINE_CLIENT = "automated-access"
OFFLINE_SCOPE = "roles offline_access"
"""`roles` too: it is only optional for that client, and the APIs refuse a token without realm_access."""
PROVENA_TOKEN_FAULT = "Could not validate credentials"  # noqa: S105 - a sentence
"""Provena answers 401 for a missing role or permission too, with other texts; only this one a newer token cures."""
SDMX_CSV = "application/vnd.sdmx.data+csv"


@dataclass(frozen=True)
class Expansion:
    """What a preset stands for."""

    name: str
    mount: str
    path: Key
    """Where the preset stands in the file: ("provena",) or ("provena", "reef")."""
    identity: AnyTable
    upstreams: dict[str, AnyTable]
    has_datasets: bool = False
    """Whether it serves the files of datasets too."""
    origins: dict[Key, Key] = field(default_factory=dict)
    """For each made setting that stems from one of the preset: that one."""


@dataclass(frozen=True)
class _Service:
    prefix: str
    deny: tuple[str, ...] = ("/check-access/",)
    """Routes that hand credentials out: the caller's own access token, AWS credentials that may write."""
    reading_posts: tuple[str, ...] = ()
    probe: str | None = None
    """A GET that asks for a token before it looks at anything else, and returns little or nothing."""


_PROVENA = {
    "data": _Service(
        "data-api",
        deny=("/check-access/", "/registry/credentials/generate-write-access-credentials"),
        reading_posts=(
            "/registry/items/list",
            "/registry/items/generate-presigned-url",
            "/metadata/validate-metadata",
            "/release/sys-reviewers/list",
        ),
        probe="/registry/items/fetch-dataset",
    ),
    "registry": _Service(
        "registry-api",
        reading_posts=("/registry/*/*/list", "/registry/general/list", "/registry/entity/dataset/user/releases"),
        probe="/registry/general/fetch",
    ),
    "prov": _Service("prov-api", probe="/explore/upstream"),
    "search": _Service("search", probe="/search/entity-registry"),
    "auth": _Service(
        "auth-api",
        # By name, because /check-access/public needs no token, gives none away and is what a health check asks.
        deny=(
            "/check-access/general",
            "/check-access/check-general-access",
            "/check-access/check-read-access",
            "/check-access/check-write-access",
            "/check-access/check-admin-access",
        ),
        probe="/link/user/lookup",
    ),
    "handle": _Service("handle", probe="/handle/list"),
    "job": _Service("job-api", reading_posts=("/jobs/user/list", "/jobs/user/list_batch"), probe="/jobs/user/fetch"),
}
# A key that is too long for a URL goes in the body of a POST that reads (SDMX REST 1.5; .Stat's Data Explorer does so).
_NSI_READING_POSTS = ["/data/*/body", "/v1/data/*/body", "/v2/data/*/*/*/*/body"]
_NSI_PROBE = "/dataflow/all/all/latest?detail=allstubs"
_GRANT_KEYS = ("client_id", "client_secret", "grant", "scope", "refresh_token", "username", "password", "extra")


def provena_lacks(preset: ProvenaPreset, path: Key) -> Iterator[Finding]:
    """Yield what a Provena preset needs besides: a domain, unless all that it is for is given."""
    if preset.domain is None and (preset.issuer is None or not any(getattr(preset, one) for one in _PROVENA)):
        yield (*path, "domain"), "is missing, such as mds.gbrrestoration.org"
    if preset.realm is None and preset.issuer is None:
        yield (*path, "realm"), "is missing, such as rrap"


def expand_provena(preset: ProvenaPreset, name: str, path: Key) -> Expansion:
    """Return what a Provena preset that lacks nothing stands for; without a domain, the services that have a URL."""
    mount = preset.mount or f"/{name}"
    has_seed = preset.refresh_token is not None
    wants_offline = preset.offline or has_seed
    identity: AnyTable = {
        "issuer": preset.issuer or f"https://auth.{preset.domain}/auth/realms/{preset.realm}",
        "client_id": preset.client_id or (OFFLINE_CLIENT if wants_offline else "client-tools"),
        "grant": Grant.REFRESH_TOKEN if has_seed else Grant.DEVICE_CODE,
        "scope": preset.scope or (OFFLINE_SCOPE if preset.offline and not has_seed else None),
        "refresh_token": preset.refresh_token,
        "offline_client_id": OFFLINE_CLIENT,
        "offline_scope": OFFLINE_SCOPE,
    }
    origins: dict[Key, Key] = {("identity", name, "issuer"): (*path, "issuer" if preset.issuer else "domain")}
    origins |= {("identity", name, key): (*path, key) for key in ("client_id", "scope", "refresh_token")}
    upstreams: dict[str, AnyTable] = {}
    for service, facts in _PROVENA.items():
        url = getattr(preset, service) or (preset.domain and f"https://{facts.prefix}.{preset.domain}")
        if url:
            upstreams[f"{name}_{service}"] = {
                "url": url,
                "identity": name,
                "mount": f"{mount}/{service}",
                "deny": list(facts.deny),
                "reading_posts": list(facts.reading_posts),
                "token_fault": PROVENA_TOKEN_FAULT,
                "probe": facts.probe,
            }
            origin = service if getattr(preset, service) else "domain"
            origins["upstream", f"{name}_{service}", "url"] = (*path, origin)
    has_datasets = preset.datasets and f"{name}_data" in upstreams
    return Expansion(name, mount, path, _without_none(identity), upstreams, has_datasets, origins)


def expand_dotstat(preset: DotstatPreset, name: str, path: Key) -> Expansion:
    """Return what a .Stat Suite preset stands for."""
    mount = preset.mount or f"/{name}"
    identity = {"issuer": preset.issuer} | {key: getattr(preset, key) for key in _GRANT_KEYS}
    rest = _with_rest(preset.nsi)
    services: dict[str, AnyTable] = {
        "rest": {"url": rest, "reading_posts": _NSI_READING_POSTS, "probe": _NSI_PROBE},
        "csv": {
            "url": rest,
            "reading_posts": _NSI_READING_POSTS,
            "probe": _NSI_PROBE,
            "accept": SDMX_CSV,
            "drops_csv_suffix": True,
        },
    }
    services |= {one: {"url": url} for one in ("transfer", "authorization") if (url := getattr(preset, one))}
    sources = {"rest": "nsi", "csv": "nsi"}
    origins: dict[Key, Key] = {("identity", name, key): (*path, key) for key in identity}
    origins |= {("upstream", f"{name}_{one}", "url"): (*path, sources.get(one, one)) for one in services}
    upstreams = {
        f"{name}_{one}": table | {"identity": name, "mount": f"{mount}/{one}"} for one, table in services.items()
    }
    return Expansion(name, mount, path, _without_none(identity), upstreams, origins=origins)


def seed_from_environment(presets: Mapping[Key, AnyTable], environ: Mapping[str, str]) -> Mistake | None:
    """Give the sole Provena preset the offline token of a well-known variable, unless it has one.

    `presets` are the tables as said, by their place in the file. Returns the mistake of leaving open whose it is.
    """
    variable = next((name for name in TOKEN_VARIABLES if environ.get(name)), None)
    if variable is None or not presets:
        return None
    reference = f"env:{variable}"
    if len(presets) == 1:
        next(iter(presets.values())).setdefault("refresh_token", Secret.parse(reference, environ=environ))
        return None
    if any(preset.get("refresh_token") == reference for preset in presets.values()):
        return None
    tables = " or ".join(f"[{'.'.join(path)}]" for path in presets)
    return Mistake(
        variable,
        f'is set, but there are {len(presets)} Provena presets; write refresh_token = "{reference}" under {tables}',
    )


def _with_rest(nsi: str) -> str:
    """Add /rest to an NSI service's URL unless it names it already, with a version behind it or not."""
    return nsi if "rest" in parse_url(nsi).path.lower().split("/") else f"{nsi}/rest"


def _without_none(table: AnyTable) -> AnyTable:
    return {key: value for key, value in table.items() if value is not None and value != {}}


def laid_over(made: AnyTable, said: object) -> object:
    """Lay a person's table over a made one, key by key; what is no table is left for validation to refuse."""
    if not isinstance(said, dict):
        return said
    return made | {
        key: laid_over(made[key], value) if isinstance(made.get(key), dict) else value for key, value in said.items()
    }
