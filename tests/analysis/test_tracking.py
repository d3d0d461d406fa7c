"""Reading all runs of a study."""

import gc
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.tracking import search_all_runs


class Pages(list[int]):
    """A page of results, and the token of the next one."""

    def __init__(self, runs: list[int], token: str | None):
        super().__init__(runs)
        self.token = token


@pytest.mark.parametrize("enabled", [True, False])
def test_all_pages_are_read_without_searching_for_cycles_which_goes_on_as_before(enabled: bool) -> None:
    seen: list[bool] = []

    def search_runs(*_: Any, page_token: str | None) -> Pages:
        seen.append(gc.isenabled())
        if page_token == "broken":
            raise OSError("the connection broke off")
        return Pages([1, 2], "next") if page_token is None else Pages([3], None)

    client: Any = SimpleNamespace(search_runs=search_runs)
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        runs: list[Any] = [*search_all_runs(client, "0")]
        assert runs == [1, 2, 3]
        assert gc.isenabled() == enabled
        client.search_runs = lambda *_, page_token: search_runs(page_token="broken")
        with pytest.raises(OSError, match="broke off"):
            search_all_runs(client, "0")
        assert gc.isenabled() == enabled
        assert seen == [False] * 3
    finally:
        (gc.enable if was else gc.disable)()
