"""Commands that are imported when somebody names them: `serve` keeps nothing in memory that another command needs.

What shows a line of each, as `--help` and completion do, imports them all.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import typer
import typer.main
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Place:
    """Where one command is: `module:name` of its function, or of the Typer of a group."""

    where: str
    epilog: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # Any: click's context settings

    def load(self, name: str) -> Any:  # Any: typer carries a click of its own, which it does not export
        """Import the command and return it under `name`."""
        module, _, attribute = self.where.partition(":")
        found: typer.Typer | Callable[..., None] = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False)
            alone.command(name, epilog=self.epilog, context_settings=dict(self.settings))(found)
            found = alone
        return typer.main.get_command(found)


class _Loaded(Mapping[str, Any]):
    """Commands by name, each one imported when it is looked up."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Any:
        return self._places[name].load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def group_of(places: Mapping[str, Place]) -> type[TyperGroup]:
    """Return the kind of group that has the commands of `places`, for `typer.Typer(cls=…)`."""

    class Group(TyperGroup):
        def __init__(self, **said: Any) -> None:
            super().__init__(**said | {"commands": _Loaded(places)})

        def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the names are the same in every context
            return list(places)

    return Group
