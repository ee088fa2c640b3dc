"""Queries on the demo's flows and the choice of a representation, by table."""

import pytest

from proxy.demo.negotiation import data_format, language_of, structure_format, takes_gzip
from proxy.demo.sdmx import BadQuery, flows, is_free, select, span

ARRIVALS, POPULATION = flows()


def test_flows_hold_what_the_demo_promises() -> None:
    """About two hundred observations, some of which are not public, and one flow that is not public at all."""
    free = sum(is_free(ARRIVALS, one) for one in ARRIVALS.observations)

    assert (len(ARRIVALS.observations), free, ARRIVALS.is_public) == (200, 145, True)
    assert (POPULATION.agency, POPULATION.id, POPULATION.is_public) == ("DEMO.SDD", "DSD_POP@DF_POP", False)


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ("all", 200),
        ("*", 200),
        ("", 200),
        ("..", 200),
        ("A..", 120),
        ("A.AU.HOL", 8),
        ("A.AU+NZ.HOL", 16),
        ("A+Q.AU+NZ+FJ.HOL+BUS", 96),
        (".AU.", 40),
        ("*.AU.*", 40),
        ("A.XX.HOL", 0),
    ],
)
def test_key_selects_by_place(key: str, count: int) -> None:
    assert len(select(ARRIVALS, key, {})) == count


@pytest.mark.parametrize(
    ("asked", "periods"),
    [
        ({"startPeriod": "2022"}, ["2022", "2023"]),
        ({"endPeriod": "2017"}, ["2016", "2017"]),
        ({"startPeriod": "2018-06", "endPeriod": "2019-Q4"}, ["2019"]),
        ({"firstNObservations": "1"}, ["2016"]),
        ({"lastNObservations": "2"}, ["2022", "2023"]),
        ({"firstNObservations": "1", "lastNObservations": "1"}, ["2016", "2023"]),
        ({"startPeriod": "2024"}, []),
    ],
)
def test_parameters_select_periods(asked: dict[str, str], periods: list[str]) -> None:
    assert [one.period for one in select(ARRIVALS, "A.FJ.VFR", asked)] == periods


@pytest.mark.parametrize(
    ("key", "asked"),
    [("A.AU", {}), ("A.AU.HOL.", {}), ("all", {"startPeriod": "soon"}), ("all", {"firstNObservations": "-1"})],
)
def test_nonsense_is_a_bad_query(key: str, asked: dict[str, str]) -> None:
    with pytest.raises(BadQuery):
        select(ARRIVALS, key, asked)


@pytest.mark.parametrize(
    ("period", "months"), [("2022", (0, 11)), ("2022-Q3", (6, 8)), ("2022-S2", (6, 11)), ("2022-07", (6, 6))]
)
def test_period_spans_months(period: str, months: tuple[int, int]) -> None:
    assert span(period) == (2022 * 12 + months[0], 2022 * 12 + months[1])


@pytest.mark.parametrize("period", ["22", "2022-Q5", "2022-13", "2022-Q", "2022-00"])
def test_period_that_is_none(period: str) -> None:
    with pytest.raises(BadQuery):
        span(period)


@pytest.mark.parametrize(
    ("named", "accept", "writer"),
    [
        (None, None, "generic"),
        (None, "*/*", "generic"),
        (None, "text/html, application/vnd.sdmx.data+csv;q=0.8, */*;q=0.1", "csv"),
        (None, "application/vnd.sdmx.data+json;version=1.0.0", "json"),
        (None, "application/vnd.sdmx.structurespecificdata+xml;version=2.1", "specific"),
        (None, "text/csv", "csv"),
        ("jsondata", "text/csv", "json"),
        ("csvfile", None, "csv"),
    ],
)
def test_format_wins_over_accept(named: str | None, accept: str | None, writer: str) -> None:
    wanted = data_format(named, accept)

    assert wanted is not None
    assert wanted.writer == writer


def test_csv_parameters_are_read_from_accept() -> None:
    wanted = data_format(None, "application/vnd.sdmx.data+csv;version=2.0.0;labels=both;file=true")

    assert wanted is not None
    assert (wanted.version, wanted.has_labels, wanted.is_file) == ("2.0.0", True, True)


def test_nothing_that_fits() -> None:
    assert data_format(None, "image/png") is None
    assert data_format("parquet", None) is None
    assert structure_format(None, "text/csv") is None


@pytest.mark.parametrize(
    ("field", "language"),
    [(None, "en"), ("fr-CH, en;q=0.5", "fr"), ("de, fr;q=0.9", "fr"), ("de", "en"), ("fr;q=0, en", "en")],
)
def test_language_is_the_first_that_the_data_has(field: str | None, language: str) -> None:
    assert language_of(field) == language


@pytest.mark.parametrize(
    ("field", "takes"), [(None, False), ("gzip, br", True), ("identity", False), ("gzip;q=0", False), ("*", False)]
)
def test_gzip_only_for_those_who_name_it(field: str | None, takes: bool) -> None:
    assert takes_gzip(field) is takes
