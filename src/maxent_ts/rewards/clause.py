"""Reads the statements of one clause."""

from __future__ import annotations

import re

from maxent_ts.rewards.places import WHOLE, Place, find_places
from maxent_ts.rewards.statements import Statement
from maxent_ts.rewards.words import Word

__all__ = ["CLOSING", "OPENING", "ClauseReader"]

_NEGATION_REACH = 4
"""How many words a negation may stand before what it negates."""

_QUANTITY_REACH = 12
"""How many words a number may stand from what it is the value of."""

_STRENGTH_REACH = 4
"""How many words an adjective may stand from what it describes."""

_OTHER_UNITS = frozenset(
    {"%", "minute", "minutes", "hour", "hours", "day", "days", "week", "weeks", "month", "months", "year", "years"}
)
_SECONDS = frozenset({"second", "seconds", "s"})

_SPEED = re.compile(r"quick|fast|rapid|sudden|slow|steep|abrupt|sharp")
"""Adjectives that say how fast something happens, not how much."""

OPENING = Place(0.0, 1.0, "opening", explicit=True)
"""Where the first of two courses is: up to some point."""

CLOSING = Place(0.0, 1.0, "closing", explicit=True)
"""Where the second of two courses is: from that point on."""

_VERBS = frozenset({"starts", "started", "begins", "began", "ends", "ended", "starting", "ending", "finishes", "begin", "start"})
"""Parts that may also be verbs: "starts rising in the middle" speaks of the middle."""


class ClauseReader:
    """Reads one clause.

    Args:
        words: The words of the clause.
        length: Points of the series; 0 where unknown.
        inherited: Series that an earlier clause of the sentence named.
        num_series: How many series there are.
    """

    def __init__(self, words: tuple[Word, ...], length: int, inherited: tuple[int, ...], num_series: int) -> None:
        self.words = words
        self.kinds = [word.kind for word in words]
        self.present = frozenset(self.kinds)
        found = find_places(words, length)
        self.place_at = {index for index, _ in found}
        self.places = found
        named = tuple(dict.fromkeys(word.series for word in words if word.kind == "name"))
        if not named and num_series > 1 and "axis" in self.kinds and ("all" in self.kinds or "every" in self.kinds):
            named = tuple(range(num_series))
        self.named = named
        self.series = named or inherited

    def statements(self) -> list[Statement]:
        """Return what the clause says."""
        compared = self._ends_compared()
        if compared is not None:
            return [compared]
        found = self._numbers()
        found += self._axes()
        found += self._rhythm()
        spread = self._spread()
        found += spread
        if not spread:
            found += self._shapes()
        return found

    def _has(self, *kinds: str) -> bool:
        return not self.present.isdisjoint(kinds)

    def _first(self, kind: str) -> int:
        return self.kinds.index(kind)

    def _negated(self, at: int) -> bool:
        return "not" in self.kinds[max(at - _NEGATION_REACH, 0) : at]

    def _strength(self, at: int) -> str:
        near = [
            (abs(index - at), word.value)
            for index, word in enumerate(self.words)
            if word.kind == "strength" and abs(index - at) <= _STRENGTH_REACH and not _SPEED.match(word.text)
        ]
        return min(near)[1] if near else ""

    def _make(
        self,
        kind: str,
        value: str,
        at: int,
        *,
        place: Place | None = None,
        number: Word | None = None,
        negated: bool | None = None,
    ) -> Statement:
        return Statement(
            kind=kind,
            value=value,
            place=place or WHOLE,
            series=self.series,
            number=None if number is None else number.number,
            precision=0.0 if number is None else number.precision,
            negated=self._negated(at) if negated is None else negated,
            start=self.words[0].start,
            end=self.words[-1].end,
        )

    def _ends_compared(self) -> Statement | None:
        """Read "ends higher than it starts", "the end is lower", "starts and ends at the same value"."""
        ends = [
            (index, word.value) for index, word in enumerate(self.words) if word.kind == "part" and word.value in ("begin", "end")
        ]
        ends += [(index, "end") for index, word in enumerate(self.words) if word.kind == "ordinal" and word.value == "last"]
        ends += [(index, "begin") for index, word in enumerate(self.words) if word.kind == "ordinal" and word.value == "1"]
        sides = {value for _, value in ends}
        if not ends or not self._has("compare", "same") or self._has("statistic", "spread", "extreme"):
            return None
        if not self._has("than") and (self._has("direction", "flat", "stay") or (len(sides) < 2 and not self._has("compare"))):
            return None
        if self._has("than") and self._has("direction") and len(sides) < 2:
            return None
        if self._has("compare"):
            at = self._first("compare")
            value = self.words[at].value
            subject = min(ends)[1]
            if subject == "begin":
                value = "down" if value == "up" else "up"
        else:
            at, value = self._first("same"), "same"
        return self._make("ends", value, at)

    def _numbers(self) -> list[Statement]:
        found: list[Statement] = []
        free = [index for index, word in enumerate(self.words) if word.kind == "number" and index not in self.place_at]
        free = [index for index in free if not self._is_other(index)]
        pair = self._pair(free)
        for index in free:
            word = self.words[index]
            following = self.words[index + 1] if index + 1 < len(self.words) else None
            preceding = self.kinds[max(index - 3, 0) : index]
            if following is not None and following.kind == "hertz":
                found.append(self._make("number", "frequency", index, number=word))
            elif following is not None and following.text in _SECONDS:
                if self._has("rhythm"):
                    found.append(self._make("number", "period in seconds", index, number=word))
            elif "every" in preceding or (self._has("rhythm") and not self._has("statistic", "extreme", "frequency")):
                found.append(self._make("number", "period", index, number=word))
            elif following is not None and following.kind in ("extreme", "spike", "step", "direction"):
                continue
            elif index in pair:
                found.append(self._make("number", pair[index], index, number=word))
            else:
                value = self._quantity(index)
                if value:
                    found.append(self._make("number", value, index, number=word))
        return found

    def _is_other(self, index: int) -> bool:
        """Whether a number is no value of the series: a percentage, a duration or a year."""
        if index + 1 < len(self.words) and self.words[index + 1].text in _OTHER_UNITS:
            return True
        word = self.words[index]
        is_year = word.number == int(word.number) and 1800 <= word.number <= 2100
        return is_year and index > 0 and self.words[index - 1].text in ("in", "since", "by", "until", "during")

    def _pair(self, free: list[int]) -> dict[int, str]:
        """Read "between 3 and 7" and "from 3 to 7"."""
        if len(free) != 2:
            return {}
        if self._has("between") or (self._has("statistic") and any(word.value == "range" for word in self.words)):
            low, high = sorted(free, key=lambda index: self.words[index].number)
            return {low: "minimum", high: "maximum"}
        linked = self.kinds[free[0] - 1] == "from" and self.kinds[free[1] - 1] == "until" if free[0] and free[1] else False
        return {free[0]: "start", free[1]: "end"} if linked and self._has("direction", "slope") else {}

    def _quantity(self, index: int) -> str:
        """Return what the number at `index` is the value of, by the nearest word that names a quantity, the one before first."""
        before = range(index - 1, max(index - 1 - _QUANTITY_REACH, -1), -1)
        order = [*before, *range(index + 1, min(index + 1 + _QUANTITY_REACH, len(self.words)))]
        for at in order:
            word = self.words[at]
            if word.kind == "number" and at > index:
                return ""
            if word.kind == "statistic":
                return word.value
            if word.kind == "extreme":
                return {"peak": "maximum", "trough": "minimum"}.get(word.value, word.value)
            if (
                word.kind == "part"
                and word.value in ("begin", "end")
                and at == self._first("part")
                and self.kinds[at + 1 : index].count("about") + at + 1 == index
            ):
                return "start" if word.value == "begin" else "end"
            if word.kind == "reach" or (word.kind == "direction" and "until" in self.kinds[at:index]):
                return "reached"
            if word.kind == "direction":
                return ""
            if word.kind in ("flat", "steady", "stay", "rough", "gravity", "name", "level"):
                return "mean"
            if word.text in ("values", "value") and "about" in self.kinds[at:index]:
                return "mean"
        return ""

    def _axes(self) -> list[Statement]:
        """Read which axis carries gravity and which varies most or least."""
        if len(self.series) != 1:
            return []
        found = []
        if self._has("gravity"):
            found.append(self._make("axis", "gravity", self._first("gravity")))
        if self._has("rank"):
            at = self._first("rank")
            about_spread = self._has("spread", "rough") or any(word.value in ("std", "range") for word in self.words)
            alone = bool(self.named) and not self._has("statistic", "extreme", "direction", "gravity")
            if about_spread or alone:
                found.append(self._make("axis", f"{self.words[at].value} variable", at))
        return found

    def _rhythm(self) -> list[Statement]:
        for at, word in enumerate(self.words):
            # "over the period" is a time; "a period of 24 steps" and "no period" speak of a rhythm.
            if word.kind == "rhythm" and (word.text not in ("period", "periods") or self._has("number", "every", "not")):
                return [self._make("rhythm", "", at)]
        return []

    def _spread(self) -> list[Statement]:
        """Read how much the series vary, and whether that changes."""
        at = next((index for index, word in enumerate(self.words) if word.kind == "spread"), -1)
        if at < 0:
            at = next(
                (index for index, word in enumerate(self.words) if word.text in ("fluctuations", "fluctuation", "volatility")), -1
            )
        if at < 0 or self._has("rank"):
            return []
        place = self.places[0][1] if self.places else WHOLE
        directions = [word.value for word in self.words if word.kind == "direction"]
        compares = [word.value for word in self.words if word.kind == "compare"]
        if directions:
            return [self._make("spread change", directions[0], at)]
        if compares and place.relation in ("in", "from") and (place.low >= 0.5 or place.high <= 0.5):
            later = compares[0] if place.low >= 0.5 else ("down" if compares[0] == "up" else "up")
            return [self._make("spread change", later, at)]
        strength = self._strength(at)
        if self._negated(at):
            # "without much variation" says low, as "without variation" does.
            return [self._make("spread", "weak", at, place=place, negated=False)] if strength != "weak" else []
        if not strength and any(word.kind in ("steady", "flat") and not word.text.startswith("consist") for word in self.words):
            strength = "weak"
        return [self._make("spread", strength, at, place=place)] if strength else []

    def _shapes(self) -> list[Statement]:
        """Read courses (up, down, flat), extrema, spikes, shifts of level, roughness, and low or high parts."""
        events = self._events()
        places = list(self.places)
        if not events:
            levels = [
                (index, word) for index, word in enumerate(self.words) if word.text in ("low", "high") and word.kind == "strength"
            ]
            return [
                self._make("level", word.text, index, place=min(places, key=lambda each: abs(each[0] - index))[1])
                for index, word in levels
                if places and not self._has("statistic", "rhythm", "frequency", "number")
            ]
        found: list[Statement] = []
        if self._has("number") and not any(place.explicit for _, place in places):
            # "the lowest point is 11" says a value and no place.
            events = [event for event in events if event[1] != "extreme"]
        if len(events) == 1:
            at, kind, value = events[0]
            stated = [place for index, place in places if not (self.words[index].text in _VERBS and len(places) > 1)]
            negated = False if kind == "no trend" else None
            if kind == "extreme" and not stated and self._negated(at):
                # "without pronounced peaks" leaves open how high a peak would be pronounced.
                return found
            for place in stated or [WHOLE]:
                found.append(self._make(kind, value, at, place=place, negated=negated))
            return found
        if len(places) == 1 and len(events) == 2 and events[0][1] == "trend" and events[1][1] == "extreme":
            # "rises to a peak in the middle": the place is the peak's.
            events = events[1:]
        courses = [event for event in events if event[1] in ("trend", "flat")]
        if not places and len(courses) == len(events) == 2:
            reverse = "from" in self.kinds[events[0][0] : events[1][0]]
            for (at, kind, value), place in zip(events, (CLOSING, OPENING) if reverse else (OPENING, CLOSING), strict=True):
                found.append(self._make(kind, value, at, place=place))
            return found
        for at, kind, value in events:
            if kind == "extreme" and not places and self._negated(at):
                continue
            after = [place for index, place in places if index > at]
            place = after[0] if after else (places[-1][1] if places else WHOLE)
            found.append(self._make(kind, value, at, place=place))
        return found

    def _events(self) -> list[tuple[int, str, str]]:
        """List what happens in the clause: index of the word, kind and value of the statement."""
        events: list[tuple[int, str, str]] = []
        texts = [word.text for word in self.words if word.kind != "and"]
        if "ups" in texts or any({texts[index], texts[index + 1]} == {"up", "down"} for index in range(len(texts) - 1)):
            return [(0, "rough", "volatile")]
        for index, word in enumerate(self.words):
            if word.kind == "shift":
                ways = [each.value for each in self.words[max(index - 2, 0) : index + 3] if each.kind == "direction"]
                events.append((index, "shift", ways[0] if ways else ""))
            elif word.kind == "direction" and "shift" in self.kinds[max(index - 2, 0) : index + 3]:
                continue  # it is the shift's
            elif word.kind == "direction":
                if not (events and events[-1][1:] == ("trend", word.value)):
                    events.append((index, "trend", word.value))
            elif word.kind == "sign" and self._has("slope"):
                events.append((index, "trend", word.value))
            elif word.kind == "flat" or (word.kind == "level" and index + 1 < len(self.words) and self.kinds[index + 1] == "off"):
                events.append((index, "flat", ""))
            elif word.kind == "extreme" and index + 1 < len(self.words) and self.kinds[index + 1] == "statistic":
                continue
            elif word.kind == "extreme":
                definite = index > 0 and self.words[index - 1].text == "the"
                numbered = "number" in self.kinds[index + 1 : index + 4]
                # "the peak", "a peak of 16": the highest point of all.
                value = {"peak": "maximum", "trough": "minimum"}.get(word.value, word.value) if definite or numbered else word.value
                events.append((index, "extreme", value))
            elif word.kind == "spike":
                events.append((index, "spike", ""))
            elif word.kind == "rough":
                events.append((index, "rough", word.value))
        if any(event[1] == "trend" for event in events):
            # "increases smoothly", "a constant decline": the manner of the course.
            events = [
                event for event in events if event[1] != "rough" and not (event[1] == "flat" and self.kinds[event[0]] == "steady")
            ]
        if not events and self._has("slope") and self._has("not"):
            return [(self._first("slope"), "no trend", "")]
        if (
            not events
            and self._has("steady", "level")
            and not self._has("rhythm", "statistic", "spread", "rank", "compare", "number")
        ):
            events.append((self._first("steady" if self._has("steady") else "level"), "flat", ""))
        if not events and self._has("stay") and self._has("same"):
            events.append((self._first("same"), "flat", ""))
        return events
