"Whatever is sent as a board, a link, an event or a picture is answered or refused with one line, and soon."

import base64
import copy
import json
import math
import random
import time

import pytest
from boards import untrained
from PIL import Image
from samples import drawing, encoded

from mvl_bench.apps.board import codec as compact
from mvl_bench.apps.board.codec import pack, unpack
from mvl_bench.apps.board.events import EVENTS
from mvl_bench.apps.board.respond import opening, react
from mvl_bench.core import UserError

SMALL = "data:image/png;base64," + base64.b64encode(encoded(drawing())).decode()
ODD = [None, True, False, 0, -1, 1, 3.5, 1e308, -1e308, math.nan, math.inf, 2**53, 2**70, "", "a"]
ODD += ["64", "0-63", "9-1", "1,1", "٣", "\0", "\ud800", "‮", "a" * 3000, "0," * 9999, "<script>"]
ODD += [
    "data:image/png;base64,AAAA",
    "data:image/svg+xml;base64,PHN2Zz4=",
    "#b=AAAA",
    "../../etc/passwd",
]
ODD += [
    [],
    {},
    [[]],
    [None],
    [1, 2],
    ["numbers"] * 9,
    {"things": []},
    {"v": 1},
    [[["deep"]]],
    list(range(99)),
]


@pytest.fixture(scope="module")
def models():
    return {"tiny": untrained()}


def places(value, path=()):
    "Every place in a JSON value."
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value, chance):
    "A copy with one to three places replaced, taken away or added to."
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        *way, last = chance.choice([p for p in places(value) if p] or [("v",)])
        inner = value
        for key in way:
            inner = inner[key]
        action = chance.random()
        if action < 0.7:
            inner[last] = copy.deepcopy(chance.choice(ODD))
        elif action < 0.85:
            del inner[last]
        elif isinstance(inner, dict):
            inner[chance.choice(["x", "__class__", "notes", "picture", "scene"])] = chance.choice(
                ODD
            )
    return value


def within(seconds, action, *given):
    "What an action returns, or the one line with which it refuses; it must not take long."
    begun = time.perf_counter()
    try:
        found = action(*given)
    except UserError as error:
        assert "\n" not in str(error) and 0 < len(str(error)) < 400
        found = None
    assert time.perf_counter() - begun < seconds
    return found


def test_a_thousand_changed_boards(models):
    chance, taken = random.Random(0), 0
    first = opening(models)["state"]
    brought = {k: v for k, v in first.items() if k != "scene"}
    brought["picture"] = "data:image/png;base64," + base64.b64encode(encoded(drawing())).decode()
    for i in range(1000):
        board = within(2, unpack, changed((first, brought)[i % 2], chance), (64, 64))
        if board is not None:  # what is taken is taken whole, and written as it was read
            taken += 1
            assert unpack(json.loads(json.dumps(pack(board))), (64, 64)).patches == board.patches
    assert 20 < taken < 500


def test_a_thousand_links():
    chance = random.Random(1)
    link = compact.to_link(dict(v=1, caption="a red circle", patches="0-9"))
    for _ in range(1000):
        letters = list(link)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(letters))
            letters[at : at + chance.randint(0, 2)] = chance.choice(
                ["", "A", "_", "%", "é", "#b=", "\n"]
            )
        found = within(1, compact.from_link, "".join(letters))
        assert found is None or isinstance(found, dict)


def test_a_thousand_events(models):
    chance, first = random.Random(2), opening(models)["state"]
    given = dict(
        hide=dict(patches="0-9", words="5"),
        edit=dict(text="a cat"),
        share=dict(side="text", ratio=0.5),
    )
    given |= dict(
        pattern=dict(patches="block", words="span"), example=dict(number=1), view=dict(on=["raw"])
    )
    given |= dict(
        bring=dict(picture=SMALL, caption="a dog", name="a"),
        caption=dict(text="a dog"),
    )
    given |= dict(
        open=dict(link=compact.to_link(first)),
        model=dict(name="tiny"),
        other={},
        clear={},
        another={},
    )
    assert given.keys() == EVENTS.keys() | {"model", "example", "bring"}
    answered = 0
    for _ in range(1000):
        kind = chance.choice(list(given))
        request = dict(state=first, kind=kind, given=given[kind], seq=1, source="test")
        reply = within(5, react, models, changed(request, chance))
        assert json.loads(json.dumps(reply, allow_nan=False))
        assert ("error" in reply) != ("shown" in reply)
        assert "\n" not in reply.get("error", "")
        answered += "shown" in reply
    assert 20 < answered < 800


def test_a_thousand_pictures(models):
    chance, whole = (
        random.Random(3),
        [encoded(drawing(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP")],
    )
    read = 0
    for i in range(1000):
        data = bytearray(whole[i % 5])
        for _ in range(chance.randint(0, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data = bytes(data[: chance.randint(1, 2 * len(data))])
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        found = within(3, compact.from_url, url, (64, 64))
        read += found is not None
        assert found is None or found.shape == (64, 64, 3)
    assert 100 < read < 1000


@pytest.mark.parametrize("kind", ["JP2", "x-portable-pixmap", "png", "svg+xml"])
def test_a_kind_of_picture_may_have_digits_in_its_name(kind):
    data = base64.b64encode(encoded(drawing(), "JPEG2000")).decode()
    url = f"data:image/{kind.lower()};base64,{data}"
    assert compact.from_url(url, (24, 24)).shape == (24, 24, 3)


def test_a_picture_of_too_many_pixels_or_of_another_format_is_refused():
    large = encoded(Image.new("1", (5000, 5000)))
    icon = encoded(drawing(size=(32, 32)), "ICO")
    for data, rule in [(large, "more than 16,000,000"), (icon, "formats are PNG")]:
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        with pytest.raises(UserError, match=rule):
            compact.from_url(url, (24, 24))
