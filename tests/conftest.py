"""Fixtures of several files."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def driver() -> Iterator[object]:
    """Playwright; one at a time in a thread."""
    from pages import sync_playwright

    with sync_playwright() as driver:
        yield driver
