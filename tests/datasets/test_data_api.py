"""What the data store says is a stranger's word: odd JSON is an answer that cannot be used, and no defect of ours."""

import httpx2
import pytest

from proxy.datasets import lists
from proxy.datasets.data_api import DataApi, Service
from proxy.datasets.handles import Handle
from proxy.errors import UpstreamInvalid
from proxy.transport.connections import Connections
from proxy.upstreams import Upstream
from tests.journeys.house import FixedSource

HANDLE = Handle.parse("10378.1/77")


def saying(body: bytes) -> DataApi:
    """A data store that answers everything with `body`."""
    data = Upstream("data", "http", "127.0.0.1", 9, identity="me")
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body))
    return DataApi(Service(data, Connections(data, transport)), FixedSource(), pseudonym=b"test")


@pytest.mark.parametrize("body", [b"[" * 60_000, b"[]", b"not JSON", b"\xff"])
async def test_what_is_no_record_is_an_invalid_answer(body: bytes) -> None:
    """H50, S36: JSON may be nested deeper than Python follows."""
    with pytest.raises(UpstreamInvalid):
        await saying(body).dataset(HANDLE)


async def test_a_name_with_half_a_character_can_be_shown() -> None:
    dataset = await saying(b'{"item": {"display_name": "reef \\ud800", "owner_username": "\\udfff"}}').dataset(HANDLE)

    assert (dataset.name, dataset.owner) == ("reef ?", "?")
    assert b"reef ?" in lists.files_json(dataset, [], "http://localhost:8400/provena/datasets")


async def test_a_dataset_whose_files_are_elsewhere_is_not_read_and_does_not_hide_the_others() -> None:
    """The prefix that we list and sign for follows from the handle alone; a record cannot send us elsewhere."""
    record = b'{"id": "10378.1/77", "s3": {"bucket_name": "b", "path": "datasets/10378-1-78/"}}'
    with pytest.raises(UpstreamInvalid, match="where its handle does not lead"):
        await saying(b'{"item": %s}' % record).dataset(HANDLE)

    listed, _ = await saying(b'{"items": [%s, {"id": "10378.1/79"}]}' % record).listed(50, None)
    assert [str(one.handle) for one in listed] == ["10378.1/77", "10378.1/79"]
