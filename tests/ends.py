"""Both client ends of the relay: our own listener, and the ASGI end in an application of somebody's own."""

import pytest

from tests.journeys import house

LISTENERS_OWN = pytest.mark.listeners_own
"""For a test, or one of its parameters, that is about what the listener alone does."""


@pytest.fixture(params=["listener", "asgi"])
def client_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let `house.running` relay through one end, then the other."""
    name: str = request.param
    monkeypatch.setattr(house, "END", name)
    return name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the listener's own tests at the other end."""
    left_out = [one for one in items if one.get_closest_marker("listeners_own") and _end_of(one) == "asgi"]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [one for one in items if one not in left_out]


def _end_of(item: pytest.Item) -> object:
    return (
        item.callspec.params.get("client_end")
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else None
    )
