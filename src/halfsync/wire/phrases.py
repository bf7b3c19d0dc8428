"""The reason phrases of statuses, as RFC 9110 section 15 has them, whatever Python's version: before 3.13 its
own are older for some."""

from __future__ import annotations

from http import HTTPStatus

PHRASES: dict[int, str] = {
    **{status.value: status.phrase for status in HTTPStatus},
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
