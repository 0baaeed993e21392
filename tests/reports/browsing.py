"""A page that is open in a browser, and what is expected of every page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SERIOUS = {"serious", "critical"}
# Generous: the machine may be busy with something else.
MOST_MS = 600_000


class Opened:
    """A page from a file, in a context of its own.

    Parameters
    ----------
    context : playwright.sync_api.BrowserContext
    path : Path
    fragment : str
        What follows the ``#`` of the address.
    """

    def __init__(self, context: Any, path: Path, fragment: str = "") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.own = path.resolve().as_uri()
        context.set_default_timeout(MOST_MS)
        context.route("**/*", self._route)
        self.page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"{self.own}{fragment}")

    def _route(self, route: Any) -> None:
        url = route.request.url
        if url.partition("#")[0] == self.own:
            route.continue_()
        else:
            self.requests.append(url)
            route.abort()

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def findings(self) -> list[str]:
        """Return what axe-core finds serious or critical, as text."""
        from axe_playwright_python.sync_playwright import Axe

        violations = Axe().run(self.page).response["violations"]
        return [
            f"{item['id']}: {node['target']} {node.get('failureSummary', '')}"
            for item in violations
            if item["impact"] in SERIOUS
            for node in item["nodes"]
        ]

    def texts(self, selector: str) -> list[str]:
        """Return the text of all elements that `selector` finds."""
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def assert_quiet(self) -> None:
        """Nothing was logged as a problem, and nothing was asked of a network."""
        assert self.complaints == []
        assert self.requests == []
