"""A reward that reads a column: does the text name the extremes of the series?"""

import re


def names_the_extremes(completions, series, **columns):
    """Share of a series' minimum and maximum that stand in the text, each to one decimal, averaged over its channels.

    Args:
        completions: Texts, as in TRL.
        series: For each completion the series behind its prompt, a list of lists in the data's own unit.
        columns: What other columns there are; not used.
    """
    return [share_named(text, channels) for text, channels in zip(completions, series, strict=True)]


def share_named(text, channels):
    """Return the share of the extremes of all channels that `text` names."""
    named = {round(float(number), 1) for number in re.findall(r"-?\d+(?:\.\d+)?", text)}
    extremes = [round(extreme, 1) for channel in channels for extreme in (min(channel), max(channel))]
    return sum(extreme in named for extreme in extremes) / len(extremes)
