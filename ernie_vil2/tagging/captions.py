"""Tags from captions, for those without a detector: the nouns of Chinese, noun phrases of English.

Chinese goes by jieba's parts of speech. English goes by the list below and two rules on endings,
not by a parser, so it knows nothing of meaning: a verb that is neither in the list nor in -ing or
-ed stays ("dogs race cars" is one phrase), an adjective stays before its noun ("red circle"), one
after it becomes a tag of its own ("a wall painted blue" gives "wall" and "blue"), plurals stay
plural, and names are in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ernie_vil2.data.records import Record
from ernie_vil2.data.tags import language_of
from ernie_vil2.errors import UserError
from ernie_vil2.tagging.tags import Choice, Found, Tags


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_LONGEST = 3  # words of an English phrase: its last ones
# jieba's: nouns, and those that are places, organisations, or other proper names. Not persons (nr),
# nor a noun that is only a part of a word (ng).
_NOUNS = {"n", "ns", "nt", "nz", "nl"}
# of a picture itself, or of a place within it: no thing that is seen
_EMPTY_ZH = _words("图 图片 照片 相片 画面 图像 镜头 背景 前景 样子 时候 地方 旁边 部分 东西")
_EMPTY_EN = _words(
    "picture photo photograph image shot view scene background foreground closeup close-up front "
    "top side back bottom middle center centre edge corner part piece pair group bunch lot kind "
    "type couple number set left right something someone thing things one ones"
)
# between two phrases: articles, pronouns, prepositions, conjunctions, auxiliaries, numbers,
# adverbs, and the verbs of captions in their finite form
_BETWEEN = _words(
    "a an the this that these those some any each every all both another other no his her its "
    "their my your our he she it they we you i him them us who which what whose where when while "
    "of in on at by with from to into onto over under above below behind beside besides between "
    "among through across along around near next against up down out off about for as like inside "
    "outside toward towards without within during before after than and or but so if because "
    "is are was were be been being am do does did has have had having can could will would may "
    "might shall should must not there here then very too also just only "
    "one two three four five six seven eight nine ten several many few much more most "
    "together away apart sits sit stands stand lies lay lays holds hold walks walk runs run rides "
    "ride plays play eats eat looks look shows show wears wear flies fly jumps jump goes go comes "
    "come makes make takes take gets get gives give sleeps sleep drinks drink hangs hang covers "
    "contains contain features feature uses use leans lean rests rest watches faces seen made"
)
# said of a thing, and no part of its name
_PRAISE = _words(
    "beautiful nice pretty lovely cute great good big small little large huge tiny very own "
    "different various same new old young"
)
# end as verbs do, and are none
_NOT_VERBS = _words(
    "building ceiling painting wedding clothing ring king string wing morning evening spring "
    "swing railing awning icing stuffing pudding earring thing sling herring duckling bed red "
    "shed sled seed weed bread"
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*|[^\sA-Za-z]")


class CaptionTagger:
    """A `Tagger` that looks at captions alone. A tag's score is the share of captions that have it.

    Args:
        choice: which of the nouns become tags.
        language: only of captions in "en" or "zh"; None: of each in its own.
    """

    origin = "captions"

    def __init__(self, choice: Choice, language: str | None = None):
        if language not in (None, "en", "zh"):
            raise UserError(f"language {language!r} of tags: expected en or zh")
        self.choice, self.language = choice, language

    def tag(self, records: Sequence[Record]) -> list[Tags]:
        return [self.choice(self._found(record.captions), 0.0) for record in records]

    def _found(self, captions: Sequence[str]) -> list[Found]:
        seen: dict[str, int] = {}
        count = 0
        for caption in captions:
            language = language_of([caption])
            if self.language in (None, language):
                count += 1
                nouns = chinese_nouns(caption) if language == "zh" else english_phrases(caption)
                for noun in dict.fromkeys(nouns):
                    seen[noun] = seen.get(noun, 0) + 1
        return [Found(noun, times / count) for noun, times in seen.items()]


def chinese_nouns(text: str) -> list[str]:
    """The nouns of a text in their order."""
    from jieba import posseg  # of PaddleNLP's requirements; loads its dictionary when first used

    words = posseg.lcut(text)
    return [w.word for w in words if w.flag in _NOUNS and w.word not in _EMPTY_ZH]


def english_phrases(text: str) -> list[str]:
    """The noun phrases of a text in their order, in lower case."""
    phrases: list[str] = []
    phrase: list[str] = []
    after_article = False
    for word in [*_WORD.findall(text.lower().replace("’", "'")), "."]:
        word = word.removesuffix("'s").strip("'-") if word[0].isalpha() else word
        opens = word in ("a", "an", "the", "his", "her", "its", "their", "some")
        if (
            not word[:1].isalpha()
            or word in _BETWEEN
            or _is_verb(word, bool(phrase), after_article)
        ):
            phrases.extend(_phrase(phrase))
            phrase = []
        elif word not in _PRAISE:
            phrase.append(word)
        # "a little running dog": praise leaves what stands before it in force
        after_article = opens or (after_article and word in _PRAISE)
    return phrases


def _is_verb(word: str, after_noun: bool, after_article: bool) -> bool:
    """Whether a word in -ing or -ed is one: "a man riding", but not "a dining table"."""
    ends = (word.endswith("ing") and len(word) > 4) or (word.endswith("ed") and len(word) > 3)
    return ends and word not in _NOT_VERBS and (after_noun or not after_article)


def _phrase(words: Iterable[str]) -> list[str]:
    words = list(words)[-_LONGEST:]
    if not words or words[-1] in _EMPTY_EN:
        return []
    phrase = " ".join(words)
    return [phrase] if len(phrase) > 1 else []
