"""What the log is told of endpoints that the gateway cannot probe."""

from __future__ import annotations

import random

import pytest

from l4ipd.monitor.unprobed import MINUTE, REMEMBERED, Unprobed

WORDS = "no memory"


class Scene:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        self.caplog, self.now = caplog, 1000.0
        self.unprobed = Unprobed(lambda: self.now)

    def begin(self, *names: str, state: str = "up", words: str = WORDS) -> list[str]:
        """The lines that it makes."""
        return self.lines(lambda name: self.unprobed.begin(name, "10.0.0.1:80", state, words), names)

    def end(self, *names: str, over: bool = True, words: str = WORDS) -> list[str]:
        return self.lines(lambda name: self.unprobed.end(name, words, over), names)

    def lines(self, what: object, names: tuple[str, ...]) -> list[str]:
        self.caplog.clear()
        for name in names:
            what(name)                              # type: ignore[operator]
        return [record.getMessage() for record in self.caplog.records]


@pytest.fixture
def scene(caplog: pytest.LogCaptureFixture) -> Scene:
    return Scene(caplog)


def named(*names: str, state: str = "up") -> list[str]:
    return [f"{name} 10.0.0.1:80: LOCAL no memory; its state stays {state}" for name in names]


def test_begins_and_ends(scene: Scene) -> None:
    assert scene.begin("a", state="unknown") == named("a", state="unknown")
    assert scene.end("a") == ["the gateway can probe again: no more no memory"]


def test_the_same_trouble_of_one_that_is_up_is_told_as_well(scene: Scene) -> None:
    assert scene.begin("a", state="down") == named("a", state="down")
    assert scene.begin("b", "c", state="down") == [], "nobody hurts"
    assert scene.begin("d", "e") == named("d", "e")
    assert scene.end("d") == [] and scene.begin("d") == [], "in and out again: not in this minute"
    scene.now += MINUTE + 1
    assert scene.end("d") == [] and scene.begin("d") == named("d")
    assert scene.end("a", "b", "c", "d", "e") == ["the gateway can probe again: no more no memory"]


def test_a_week_later_another_one(scene: Scene) -> None:
    assert len(scene.begin(*(f"m{number}" for number in range(50)))) == 9 + 1 + 1
    scene.now += 7 * 86400
    assert scene.begin("late") == named("late")


def test_tenfold(scene: Scene) -> None:
    lines = scene.begin(*(f"m{number}" for number in range(2000)))
    ten, hundred, thousand = (f"{count} endpoints cannot be probed, and their states stay: LOCAL no memory"
                              for count in (10, 100, 1000))
    assert lines == [*named(*(f"m{number}" for number in range(9))), ten, *named("m10"), hundred, thousand]
    assert scene.end(*(f"m{number}" for number in range(2000))) == ["the gateway can probe again: no more no memory"]
    assert scene.begin("a", "b") == [], "ten in this minute have been named"
    assert scene.end("a", "b") == [], "of which nothing was said"
    scene.now += MINUTE + 1
    assert len(scene.begin(*(f"m{number}" for number in range(10)), state="down")) == 2, "anew"


def test_another_trouble_is_no_end(scene: Scene) -> None:
    scene.begin("a", "b")
    assert scene.end("a", over=False) == [] and scene.end("b", over=False) == []
    assert scene.begin("a", words="no buffers") == ["a 10.0.0.1:80: LOCAL no buffers; its state stays up"]


def test_thousands_in_and_out_for_an_hour(scene: Scene) -> None:
    print(seed := random.randrange(1 << 30))
    chance = random.Random(seed)
    inside: set[str] = set()
    lines: list[str] = []
    for _ in range(3600):
        scene.now += 1
        for name in {f"m{chance.randrange(5000)}" for _ in range(20)}:
            lines += scene.end(name) if name in inside else scene.begin(name)
            inside ^= {name}
    assert len(lines) <= 60 * 11 + 3


def test_words_that_differ_each_time_are_forgotten(scene: Scene) -> None:
    for number in range(1000):
        scene.begin("a", words=str(number))
        scene.end("a", words=str(number))
    assert len(scene.unprobed._troubles) <= REMEMBERED


def test_a_minute_to_the_second(scene: Scene) -> None:
    assert scene.begin("a") == named("a")
    scene.end("a")
    scene.now += MINUTE
    assert scene.begin("a") == [], "it was named in this minute"
    assert scene.end("a") == [], "so nothing was said of it this time"
    scene.now += 0.1
    assert scene.begin("a") == named("a")


def test_the_end_of_what_nobody_was_told_of_is_not_told_either(scene: Scene) -> None:
    assert scene.begin("a") == named("a")
    assert scene.end("a") == ["the gateway can probe again: no more no memory"]
    assert scene.begin("a", "b", state="down") == [] and scene.end("a", "b") == []
    for number in range(REMEMBERED):                # until all that is forgotten
        scene.begin("a", words=str(number))
        scene.end("a", words=str(number))
    scene.unprobed.begin("a", "", "down", WORDS)
    assert scene.end("a") == ["the gateway can probe again: no more no memory"]


def test_as_many_as_there_is_room_for_are_remembered_and_the_oldest_goes_first(scene: Scene) -> None:
    for number in range(REMEMBERED + 1):
        scene.begin("a", words=str(number))
        scene.end("a", words=str(number))
    assert list(scene.unprobed._troubles) == [str(number) for number in range(1, REMEMBERED + 1)]
    assert scene.begin("a", words="1") == [] and scene.begin("b", words="0") != [], "its minute is forgotten as well"
    scene.begin("z", words="now")
    for number in range(2 * REMEMBERED):
        scene.begin("a", words=f"x{number}")
        scene.end("a", words=f"x{number}")
    assert scene.end("z", words="now") != [], "one that is not over is never forgotten"
