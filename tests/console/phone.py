"""The console on a small screen, in the dark."""

from tests.console.conftest import Console


def require_accessible_on_a_phone(console: Console) -> None:
    """At 360 pixels, and back."""
    console.page.emulate_media(color_scheme="dark")
    console.page.set_viewport_size({"width": 360, "height": 800})
    console.require_accessible()
    console.page.emulate_media(color_scheme="light")
    console.page.set_viewport_size({"width": 1280, "height": 900})
