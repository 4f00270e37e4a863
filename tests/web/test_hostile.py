"""What strangers send is text: it never runs, never fetches, never leaves its place on the page."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.web.browser import Person, row, titles

pytestmark = pytest.mark.slow

_ATTACKS = (
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 2'>",
    "<svg onload='window.hit = 3'><script>window.hit = 4</script></svg>",
    "[click](javascript:window.hit=5) <a href='java\tscript:window.hit=6'>me</a>",
    "<iframe srcdoc='<script>parent.hit = 7</script>'></iframe>",
    "<form action='javascript:window.hit=8'><button>go</button></form><style>*{display:none}</style>",
    "<a href='data:text/html,<script>opener.hit=9</script>' target=_blank>data</a>",
    "<math><mi xlink:href='javascript:window.hit=10'></mi></math><details ontoggle='window.hit=11' open>x</details>",
    '<p style="position:fixed;inset:0" class="bar" id="search">over everything</p>',
    "![picture](https://attacker.example/track.png) <link rel=stylesheet href=//attacker.example/x.css>",
)


def test_no_message_runs_a_script_or_fetches_anything(person: Person) -> None:
    for number, attack in enumerate(_ATTACKS):
        metadata = {"actions": [{"label": attack, "url": "javascript:window.hit=20"}], attack: attack}
        person.deliver(
            f"Attack {number} {attack}", f"Before\n\n{attack}\n\nafter", sender=attack[:200], metadata=metadata
        )
    context = person.device()
    context.add_init_script(
        "window.violations = []; addEventListener('securitypolicyviolation', (event) =>"
        " window.violations.push(event.violatedDirective + ' ' + event.blockedURI))"
    )
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = person.open(context)
    expect(titles(page)).to_have_count(len(_ATTACKS))
    for number in range(len(_ATTACKS)):
        row(page, f"Attack {number} ").click()
        expect(page.locator(".letter h2")).to_contain_text(f"Attack {number} ")
        expect(page.locator(".letter-body")).to_contain_text("Before")
        expect(page.locator(".letter-body")).to_contain_text("after")
        page.locator(".letter-details summary").click()
        for link in page.locator(".letter-body a").all():
            href = link.get_attribute("href")
            assert href is None or href.startswith(("https:", "http:", "mailto:"))
            if href is None:
                link.click()
        hostile = "script, iframe, img, svg, form, style, link, math, [onerror], [onload], [style], [id], [class]"
        assert page.locator(".letter-body").locator(hostile).count() == 0
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit") is None
    assert page.evaluate("window.violations") == []
    assert not [url for url in asked if "attacker" in url]


def test_a_title_of_a_megabyte_and_turned_letters_stay_in_their_place(person: Person) -> None:
    person.deliver("T" * 1_000_000, "x")
    turned = "\u202edlrow olleh\u202c \u2066\u2067 gnitset"
    person.deliver(turned, "\u202eturned", sender="\u202eevil\u202e")
    person.deliver("Long", "w" * 900_000)
    page = person.open()
    expect(titles(page)).to_have_count(3)
    for place, title in enumerate(("Long", turned, "T" * 2_000)):
        page.locator(".row").nth(place).click()
        expect(page.locator(".letter h2")).to_have_text(title)  # until then it is the one before that is measured
        expect(page.locator(".letter h2")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator(".letter").evaluate("(it) => it.scrollWidth <= it.parentElement.clientWidth")
