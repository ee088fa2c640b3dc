"""What a registry's record says of a dataset, as far as people who read files want to know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.datasets.handles import Handle


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the data store knows of a dataset."""

    handle: Handle
    name: str
    description: str
    status: str
    owner: str
    """User name; empty if it is not told."""
    bucket: str
    """Empty if it is not told."""


def dataset_of(item: Mapping[str, Any], handle: Handle) -> Dataset:
    """Return a registry item as a dataset."""
    place = item.get("s3")
    place = place if isinstance(place, dict) else {}
    inner = item.get("collection_format")
    details = inner.get("dataset_info") if isinstance(inner, dict) else None
    details = details if isinstance(details, dict) else {}
    return Dataset(
        handle,
        name=word(item, "display_name") or str(handle),
        description=word(details, "description"),
        status=word(item, "release_status"),
        owner=word(item, "owner_username"),
        bucket=word(place, "bucket_name"),
    )


def person_of(item: Mapping[str, Any]) -> str:
    """Return the person to ask about a dataset: its point of contact, else its owner."""
    inner = item.get("collection_format")
    associations = inner.get("associations") if isinstance(inner, dict) else None
    contact = word(associations, "point_of_contact") if isinstance(associations, dict) else ""
    return contact or word(item, "owner_username")


def word(told: Mapping[str, Any], name: str) -> str:
    """Return a text of a JSON object, empty if there is none."""
    value = told.get(name)
    # JSON can hold halves of characters, which no page, list or terminal can.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
