"""`datasets`: the group of the commands that find, list and copy them."""

import typer

from proxy.cli import dataset_copies, dataset_credentials, datasets, deployments

group = typer.Typer(name="datasets", no_args_is_help=True, callback=deployments.before, add_completion=False)
group.command(epilog="Example: bearerproxy datasets find coral")(datasets.find)
group.command(epilog="Example: bearerproxy datasets ls 10378.1/1001")(datasets.ls)
group.command(epilog="Example: bearerproxy datasets get 10378.1/1001 --to data --include '*.csv'")(dataset_copies.get)
group.command(epilog="Example: bearerproxy datasets credentials 10378.1/1001 --format env")(
    dataset_credentials.credentials
)
