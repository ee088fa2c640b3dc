"""`datasets credentials`: keys for programs that speak S3 themselves, on request alone."""

import json
import shlex
import sys
from typing import Annotated

import typer

from proxy.app import App
from proxy.cli.command import ConfigOption, run
from proxy.cli.deployments import HandleArgument, ProvenaOption, deployment_of, library_of, quietly
from proxy.cli.terminal import configured, err
from proxy.datasets.handles import Handle
from proxy.datasets.sigv4 import Credentials, Place

FORMS = ("process", "env", "json")


def credentials(
    handle: HandleArgument,
    write: Annotated[bool, typer.Option("--write", help="Keys that may change the dataset too.")] = False,
    form: Annotated[
        str,
        typer.Option("--format", metavar="|".join(FORMS), help="process: for credential_process in ~/.aws/config."),
    ] = "process",
    provena: ProvenaOption = None,
    config: ConfigOption = None,
) -> None:
    """Print temporary AWS credentials for a dataset: for the AWS CLI, boto3, GDAL, rclone."""
    if form not in FORMS:
        raise typer.BadParameter(f"--format is one of {', '.join(FORMS)}.")
    configuration = configured(config)
    name, _ = deployment_of(configuration, provena)
    parsed = Handle.parse(handle)
    given, place, bucket = run(_given(App(configuration, emit=quietly()), name, parsed, may_write=write))
    if sys.stdout.isatty():
        err.print("[yellow]These are secrets:[/] they stay on this screen and in its history.")
    endpoint = configuration.datasets.endpoint
    match form:
        case "process":
            typer.echo(json.dumps(_process(given)))
        case "json":
            where = {"Bucket": bucket, "Prefix": parsed.folder, "Region": place.region, "Endpoint": endpoint}
            typer.echo(json.dumps(_process(given) | where, indent=2))
        case _:
            _print_variables(given, place, endpoint)
            typer.echo(f"# s3://{bucket}/{parsed.folder}")


async def _given(app: App, name: str, handle: Handle, *, may_write: bool) -> tuple[Credentials, Place, str]:
    async with library_of(app, name) as library:
        given = await library.given_credentials(handle, may_write=may_write)
        return given, await library.place(handle), (await library.dataset(handle)).bucket


def _process(given: Credentials) -> dict[str, object]:
    """Return what AWS's programs read from a `credential_process`."""
    return {
        "Version": 1,
        "AccessKeyId": given.access_key_id,
        "SecretAccessKey": given.secret_access_key,
        "SessionToken": given.session_token,
        "Expiration": given.expiry.isoformat(timespec="seconds"),
    }


def _print_variables(given: Credentials, place: Place, endpoint: str | None) -> None:
    variables = {
        "AWS_ACCESS_KEY_ID": given.access_key_id,
        "AWS_SECRET_ACCESS_KEY": given.secret_access_key,
        "AWS_SESSION_TOKEN": given.session_token,
        "AWS_DEFAULT_REGION": place.region,
    } | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
