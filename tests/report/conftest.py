"""The browser that the tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import browser, require_browser

from debian_packages import NoProgramError


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium", reason="needs selenium, which the extra dev installs")
    try:
        require_browser()
    except NoProgramError as error:
        pytest.skip(str(error))
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver
