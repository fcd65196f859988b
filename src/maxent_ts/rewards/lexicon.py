"""The words that statements about a series are made of, and what each means.

A word means the first entry whose regular expression matches all of it. Stems are loose on purpose: forms ("declining") and
common misspellings ("begining", "increses") count as the word. Function words that carry no meaning here are `filler`.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["meaning"]

_WORDS: tuple[tuple[str, str, str], ...] = (
    (
        "filler",
        "",
        r"the|an|its?|of|very|quite|rather|fairly|relatively|mostly|nearly|almost|just|clear|any|obvious|noticeable|roughly|somewhat|graph|plot",
    ),
    ("about", "", r"about|around|near|nearby|close|approximately|approx|at|in|during|on|within|inside|by|over"),
    ("not", "", r"not?|none|without|never|lack(?:s|ing)?|absen(?:t|ce)|(?:is|does|do|are|has)n['’]?t|neither|nor|hardly|barely"),
    ("both_ways", "", r"ups|downs"),
    (
        "direction",
        "up",
        r"inc?re?a?s\w*|incres\w*|ris(?:e|es|en|ing)|rose|rais\w+|climb\w*|gr[eo]w\w*|inclin\w*|upwards?|up|uprising|ascen\w+"
        r"|uptick|upturn|uphill|uptrend|upswing|gain\w*|surg\w+|soar\w*|jump\w*|hikes?|accelerat\w+|rall(?:y|ies|ied)|rebound\w*|recover\w*",
    ),
    (
        "direction",
        "down",
        r"dec?re?a?s\w*|decres\w*|declin\w*|fall\w*|fell|drop\w*|descen\w+|downwards?|down|downturn|downhill|downtrend|downtick"
        r"|reduc\w+|plung\w+|plumm\w+|slid\w+|sink\w*|sank|crash\w*|div(?:es?|ed|ing)|shrink\w*|degrad\w+|los(?:s|es|ing|t)|tumbl\w+"
        r"|slump\w*|lower(?:s|ing|ed)|dwindl\w+|diminish\w*|wan(?:es?|ing)",
    ),
    ("sign", "up", r"positive(?:ly)?"),
    ("sign", "down", r"negative(?:ly)?"),
    (
        "steady",
        "",
        r"stead\w+|consist[ae]n\w*|gradual\w*|continu\w+|linear\w*|monoton\w+|uniform\w*|even(?:ly)?|constant\w*|stable|stably",
    ),
    ("steady", "shape", r"straight"),
    (
        "flat",
        "",
        r"flat\w*|plateau\w*|stabili[sz]\w+|stagna\w+|unchang\w+|unwavering|static|saturat\w+|evens|stationary|motionless|still(?:ness)?",
    ),
    ("level", "", r"level(?:s|l?ing|l?ed)?"),
    ("off", "", r"off|out"),
    ("stay", "", r"stay\w*|remain\w*|maintain\w*|keeps?|kept|holds?|sustain\w*"),
    ("same", "", r"same|equal\w*|similar\w*|identical\w*|alike"),
    ("extreme", "maximum", r"maxim\w+|max|highest|topmost|tops?|climax\w*|apex\w*|summits?|zenith"),
    ("extreme", "minimum", r"minim(?:um|a)|min|lowest|nadir"),
    ("extreme", "peak", r"peak\w*|crest\w*|hills?|humps?|bumps?"),
    ("extreme", "trough", r"trr?oo?u?gh\w*|bottom\w*|dip(?:s|ped|ping)?|valleys?|craters?"),
    ("spike", "", r"spik\w*|outliers?|bursts?|anomal\w+"),
    ("shift", "", r"shift\w*|regimes?|step-?change"),
    (
        "rough",
        "rough",
        r"nois\w+|rough(?:ness)?|jagg\w+|erratic\w*|irregular\w*|bumpy",
    ),
    ("rough", "volatile", r"volatil\w*|fluctuat\w+|choppy|zig\w*|wav(?:y|ers?)|wobbl\w+|bounc\w+|unstable"),
    ("rough", "smooth", r"smooth\w*"),
    ("rhythm", "", r"period(?:s|ic\w*)?|cycl\w+|repeat\w*|repetit\w+|rhythm\w*|season\w*|oscillat\w*|recur\w*|strides?|gait"),
    ("frequency", "", r"frequenc\w+|cadence"),
    ("hertz", "", r"hz|hertz"),
    ("every", "", r"every|each"),
    (
        "spread",
        "",
        r"vari(?:es|ed|ability|ations?|ance)|vary|varying|dispers\w+|spread|movements?|motion|activity|amplitude|swings?",
    ),
    ("statistic", "mean", r"means?|averag\w+|cent(?:ered|red)|hover\w*"),
    ("statistic", "median", r"median"),
    ("statistic", "std", r"std|stdev|sigma|deviation"),
    ("statistic", "range", r"rang(?:e|es|ed|ing)|span(?:s|ned|ning)?"),
    ("filler", "", r"standard"),
    ("between", "", r"between"),
    ("gravity", "", r"gravit\w+"),
    ("all", "", r"all|both"),
    ("axis", "", r"axis|axes"),
    ("rank", "most", r"most|largest|strongest|greatest|dominant|dominates?|biggest|widest"),
    ("rank", "least", r"least|smallest|weakest"),
    (
        "strength",
        "strong",
        r"sharp\w*|steep\w*|rapid\w*|sudden\w*|huge\w*|larg(?:e|ely)|big|significant(?:ly)?|exponential\w*|strong\w*|dramatic\w*|drastic\w*|abrupt\w*|massive\w*|deep\w*"
        r"|fast|quick\w*|radical\w*|great(?:ly)?|heav\w+|tall|pronounced|vigorous\w*|substantial\w*|considerabl\w+|extreme(?:ly)?|high(?:ly)?|wide(?:ly)?",
    ),
    (
        "strength",
        "weak",
        r"slight\w*|small|slow\w*|gentl\w+|little|mild\w*|modest\w*|marginal\w*|minor|shallow|subtle|subtly|tiny|bit|minimal\w*|narrow|limited|low|weak\w*|negligible",
    ),
    ("strength", "moderate", r"moderat\w+|medium"),
    ("compare", "up", r"higher|greater|larger|above|bigger|more"),
    ("compare", "down", r"lower|less|smaller|beneath|below|fewer"),
    ("than", "", r"than"),
    ("part", "begin", r"beg+\w*in+\w*|beg+ing|bein+ing|began|start\w*|initial\w*|earl(?:y|ier)|outset|onset"),
    ("part", "middle", r"mid\w*|cent(?:er|re)|halfway"),
    ("part", "end", r"end|ends|ended|ending|endpoint|final\w*|finish\w*|tail\w*|late|later|conclu\w+|eventual\w*"),
    ("ordinal", "1", r"first|1st|frist"),
    ("ordinal", "2", r"second|2nd"),
    ("ordinal", "3", r"third|3rd"),
    ("ordinal", "4", r"fourth|4th"),
    ("ordinal", "last", r"last|latter|back"),
    ("count", "2", r"two"),
    ("count", "3", r"three"),
    ("fraction", "2", r"half|halves"),
    ("fraction", "3", r"thirds"),
    ("fraction", "4", r"quarters?"),
    ("section", "", r"part|portion|section|segment|stage|phase|value|point|time|place|position"),
    ("whole", "", r"thr?ou?g?h?out|entire\w*|whole|overall|always|duration|generally"),
    ("from", "", r"from|since|after|following|past"),
    ("onward", "", r"onwards?"),
    ("until", "", r"until|till?|to|before|through|thru"),
    ("toward", "", r"towards?"),
    ("then", "", r"then|afterwards?|subsequently|followed"),
    ("and", "", r"and|while|whereas|but|with|though|although|yet|as|so|where|which"),
    ("step", "", r"steps?|points|samples?|index|indices|timesteps?|observations?"),
    ("way", "", r"way"),
    ("slope", "", r"slop\w+|trend\w*|direction|trajectory|tendency|drift\w*|growth|change"),
    ("reach", "", r"reach\w*|hits?|attain\w*"),
)

_COMPILED = tuple((kind, value, re.compile(pattern)) for kind, value, pattern in _WORDS)


@lru_cache(maxsize=16384)
def meaning(word: str) -> tuple[str, str]:
    """Return the category and value of a lower-case word; two empty strings where it has none."""
    if len(word) > 24:
        return "", ""
    for kind, value, pattern in _COMPILED:
        if pattern.fullmatch(word):
            return kind, value
    return "", ""
