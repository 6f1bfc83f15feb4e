"""Words with two pronunciations, told apart by their neighbours where gruut's role is not enough.

A rule is (phonemes, before, after): two patterns of the words in front of it and behind it, in
small letters with blanks between. The first rule whose patterns both fit decides; without one
gruut's part of speech does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

REACH = 6
"""Words looked at on either side: the verb of a clause is rarely further from its subject."""

_HELP = (
    r"(?:to|will|would|can|could|shall|should|may|might|must|do|does|did|don't|doesn't|didn't"
    r"|won't|wouldn't|can't|cannot|couldn't|shouldn't|let's|let|please|'ll|i'll|we'll|you'll"
    r"|they'll|he'll|she'll|i'd|we'd|help|makes?|made)"
    r"(?: (?:not|never|always|also|just|i|you|we|they|he|she|it|him|her|them|me|us|only|even"
    r"|really|ever|often))*"
)
"""What stands in front of a verb without an ending."""
_HAVE = (
    r"(?:have|has|had|having|haven't|hasn't|hadn't|i've|we've|you've|they've|he's|she's|who've"
    r"|is|are|was|were|be|been|being|get|gets|got|wasn't|weren't|isn't|aren't)"
    r"(?: (?:not|never|already|just|ever|also|always|only|recently|finally|once|i|you|we|they|he"
    r"|she|it|all|both|even|widely|often|rarely|well|being|been|aloud))*"
)
"""What stands in front of a participle."""
_BEGINS = r"(?:^|[,.!?])"
_OWN = r"(?:a|an|the|my|your|his|her|its|our|their|this|that|these|those|some|every|each)"
_WHOM = rf"(?:{_OWN}|it|them|him|me|us|up|down|back|off|apart|out|away|open|through|along|around)"
_PEOPLE = r"(?:i|you|he|she|it|we|they|who)"
_SHED = (
    r"(?:shed|sheds|shedding|wiped?|wipes|wiping|cry|cried|brushed?|dry|dried|in|into|to|with|of"
    r"|bitter|salty|happy|single|lone|back|no|hot|silent|many|blinked?)"
)
_FISH = (
    r"(?:caught|catch|catches|catching|fish|fishes|fishing|fished|sea|striped|largemouth|smallmouth"
    r"|black|grilled|fried|fresh|chilean|cooked?|ate|eat|rock|giant)"
)
_SUNG = r"(?:guitars?|drums?|players?|line|notes?|clef|solo|voices?|singers?|boost|amp|sounds?)"
_METAL = (
    r"(?:pipes?|paints?|poisoning|acid|bullets?|pencils?|weights?|mines?|ore|shot|oxide|glass"
    r"|crystal|free|based|levels? in|contamination|solder|roof|dust|battery|batteries|apron|ions?)"
)
_SHOWN = (
    r"(?:concerts?|music|shows?|broadcasts?|streams?|streaming|audiences?|performances?|wires?"
    r"|ammunition|animals?|bait|tv|t v|television|radio|feeds?|coverage|events?|bands?|albums?"
    r"|recordings?|chat|demo|report|updates?|session|stage|wires?|lobsters?|versions?|theater)"
)

_RED, _REED = "ɹ ˈɛ d", "ɹ ˈi d"
_TIER, _TARE = "t ˈɪ ɹ", "t ˈɛ ɹ"
_PAST = r".*\b(?:yesterday|ago|last|earlier|before|when|then|once|in (?:nineteen|twenty|two))\b"
_HABIT = r".*\b(?:every|daily|usually|often|always|now|each)\b"

HOMOGRAPHS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "read": (
        (_RED, rf"\b{_HAVE}$", ""),
        (_REED, rf"\b{_HELP}$", ""),
        (_RED, r"\b(?:well|widely)$", ""),
        (_REED, rf"{_BEGINS}$", rf"^{_WHOM}\b"),
        (_REED, r"\b(?:good|quick|easy|long|great|a|an|must)$", ""),
        (_RED, r"\b(?:he|she|it|who|teacher|mother|father|judge|sign|letter|note|headline)$", ""),
        (_RED, r"\b(?:usually|often|always)$", _PAST),
        (_REED, r"\b(?:usually|often|always)$", ""),
        (_RED, "", _PAST),
        (_REED, r"\b(?:i|you|we|they)$", _HABIT),
    ),
    "lead": (
        ("l ˈɛ d", "", rf"^{_METAL}\b"),
        ("l ˈɛ d", r"\b(?:of|contain|contains|containing|no|melted|molten|liquid|some)$",
         r"^(?:$|[,.!?]|in\b|and\b|is\b|was\b|or\b)"),
        ("l ˈɛ d", rf"{_BEGINS}$", r"^(?:is|was|and|has|can|melts|poisons)\b"),
        ("l ˈɛ d", r"\b(?:tin|zinc|copper|iron|mercury|silver|gold|heavy as|like) (?:and |or )?$",
         ""),
        ("l ˈi d", "", ""),
    ),
    "live": (
        ("l ˈɪ v", rf"\b{_HELP}$", ""),
        ("l ˈaɪ v", "", rf"^{_SHOWN}\b"),
        ("l ˈaɪ v", r"\b(?:go|goes|going|went|gone|is|are|was|were|be|been|broadcast|streamed|aired"
         r"|performs?|performed|recorded|played|sang|sing|watch|watched|shown|a|we're|it's)$",
         r"^(?:$|[,.!?]|on\b|at\b|in\b|from\b|now\b|today\b|tonight\b|and\b|with\b)"),
        ("l ˈɪ v", r"\b(?:i|you|we|they|who|people|and|families|that|where)$", ""),
    ),
    "lives": (
        ("l ˈɪ v z", r"\b(?:he|she|it|who|that|one|everyone|nobody|mother|father|brother|sister"
         r"|family|man|woman|friend|still|also|now)$", ""),
        ("l ˈaɪ v z", rf"\b(?:{_OWN}|of|save|saved|many|new|nine|two|three|lost|risked|all|both"
         r"|whole|own|daily|human|private|past|real)$", ""),
        ("l ˈɪ v z", "", r"^(?:in|at|on|with|near|alone|here|there|by|under|next)\b"),
    ),
    "wind": (
        ("w ˈaɪ n d", rf"\b{_HELP}$", rf"^(?:{_WHOM}|its|through|around)\b"),
        ("w ˈaɪ n d", rf"{_BEGINS}$", r"^(?:the|it|up|down|a|your|this|that|them)\b"),
        ("w ˈaɪ n d", r"\b(?:you|we|they|and|then)$", r"^(?:up|down|it|the)\b"),
        ("w ˈɪ n d", "", ""),
    ),
    "winds": (
        ("w ˈaɪ n d z", r"\b(?:road|path|river|trail|stream|street|track|lane|it|he|she|which"
         r"|that|staircase|valley)$", ""),
        ("w ˈaɪ n d z", "", r"^(?:through|around|along|up|down|its|between|past)\b"),
        ("w ˈɪ n d z", "", ""),
    ),
    "tear": (
        (_TARE, rf"\b{_HELP}$", ""),
        (_TIER, "", r"^(?:drops?|gas|ducts?|jerkers?|stained|film|shaped|stains?)\b"),
        (_TIER, rf"\b{_SHED}(?: (?:a|the|her|his|my|another|away|single|one|from))*$",
         r"^(?!in (?:the|his|her|my|your|this|that|its) (?!eyes?))"),
        (_TIER, r"\b(?:a|one|another|single|last|each|every|the)$",
         r"^(?:ran|runs|rolled|rolls|fell|falls|trickled|slid|dropped|came|formed|streamed|down"
         r"|escaped|from|glistened|appeared|welled|in (?:his|her|my|your|their|the corner))\b(?!"
         r" (?:shirt|dress|coat|skirt|jacket|sleeve|trousers|jeans|knee|muscle))"),
        (_TARE, "", ""),
    ),
    "tears": (
        ("t ˈɛ ɹ z", r"\b(?:he|she|it|who|which|that|dog|cat|wind|paper|fabric)$",
         rf"^(?:$|[,.!?]|(?:{_WHOM}|easily|at|into)\b)"),
        ("t ˈɛ ɹ z", "", r"^in (?:the|his|her|its|my) (?:fabric|shirt|dress|cloth|coat|sail|paper"
         r"|curtains?|jeans|net|sleeve|roof)\b"),
        ("t ˈɪ ɹ z", "", ""),
    ),
    "polish": (
        ("p ˈɑ l ɪ ʃ", rf"\b{_HELP}$", ""),
        ("p ˈɑ l ɪ ʃ", r"\b(?:nail|shoe|furniture|floor|silver|car|metal|some|french|spit and|more"
         r"|i|you|we|they)$", ""),
        ("p ˈɑ l ɪ ʃ", rf"{_BEGINS}$", rf"^{_WHOM}\b"),
        ("p ˈɑ l ɪ ʃ", r"\b(?:and|then)$", rf"^{_WHOM}\b"),
    ),
    "wound": (
        ("w ˈu n d", r"\b(?:a|an|the|his|her|my|your|this|that|its|bullet|stab|head|open|deep|flesh"
         r"|gunshot|knife|fatal|old|small|each|every|to|could|would|can|not|war|leg|arm)$", ""),
        ("w ˈaʊ n d", r"\b(?:he|she|it|i|we|they|who|and|you|tightly|road|path|river|trail|is|was"
         r"|been|are|were|had|has|have|be)$", ""),
        ("w ˈaʊ n d", "", r"^(?:up|down|around|through|its|the|tightly|along|round)\b"),
    ),
    "dove": (
        ("d ˈoʊ v", rf"\b(?:{_PEOPLE}|and|then|plane|boy|girl|man|woman|diver|swimmer|whale|duck"
         r"|submarine|goalkeeper|players?|dog|kids|children|team|that|jack|tom|mary|keeper)$", ""),
        ("d ˈoʊ v", "", r"^(?:into|in|off|under|down|for|headfirst|deep|deeper|right|through|from"
         r" the (?:boat|board|cliff|pier))\b"),
        ("d ˈʌ v", "", ""),
    ),
    "does": (
        ("d ˈoʊ z", r"\b(?:two|three|four|five|six|seven|ten|several|many|some|young|female|wild"
         r"|bucks and|stags and|of|few|these|those|more|grazing|red)$",
         r"^(?:$|[,.!?]|(?:and|are|were|ran|run|in|with|have|had|stood|graze|grazed|crossed|came"
         r"|from|near|by|at|on)\b)"),
        ("d ˈoʊ z", r"\b(?:the|both|all|our)$",
         r"^(?:$|[,.!?]|(?:and|are|were|ran|run|have|stood|stand|graze|grazed|crossed|came|fled"
         r"|in)\b)"),
        ("d ˈoʊ z", "", r"^(?:and (?:bucks?|fawns?|stags?|their)|with (?:their )?fawns?)\b"),
    ),
    "bass": (
        ("b ˈeɪ s", "", rf"^{_SUNG}\b"),
        ("b ˈæ s", rf"\b{_FISH}(?: (?:a|an|the|some|two|three|big|large|huge|small|another|one))*$",
         ""),
        ("b ˈæ s", "", r"^(?:fishing|fillets?|(?:swam|swims|swimming|jumped|bit)\b"
         r"|(?:in|from|out of) (?:the|a|this|that|our) (?:lake|river|pond|sea|water|net)\b)"),
    ),
    "bow": (
        ("b ˈaʊ", rf"\b{_HELP}$", ""),
        ("b ˈaʊ", r"\b(?:take|takes|took|taking|made)(?: a| the| their| his| her)?$",
         ""),
        ("b ˈaʊ", r"\b(?:deep|low|final|polite|slight)$", ""),
        ("b ˈaʊ", rf"{_BEGINS}$", r"^(?:to|down|before|your)\b"),
        ("b ˈaʊ", "", r"^(?:of (?:the|a|his|her|our|their) (?:ship|boat|vessel|canoe)|down|out"
         r"|before|your head|to the (?:king|queen|audience|emperor|crowd))\b"),
        ("b ˈaʊ", r"\b(?:ship's|boat's|starboard|port)$", ""),
    ),
    "row": (
        ("ɹ ˈaʊ", r"\b(?:terrible|furious|flaming|huge|blazing|diplomatic|had a|having a|big)$",
         r"^(?:$|[,.!?]|(?:about|over|with|between|broke|and)\b)"),
    ),
    "sow": (
        ("s ˈaʊ", r"\b(?:a|the|old|fat|pregnant|big|that|our|mother|his|her)$", ""),
        ("s ˈoʊ", "", ""),
    ),
    "minute": (
        ("m aɪ n ˈu t", r"\b(?:so|very|too|most|in|extremely|incredibly|quite)$",
         r"^(?:$|[,.!?]|detail|details|amounts?|quantit|particles?|traces?|that|differences?)"),
        ("m aɪ n ˈu t", "", r"^(?:details?|amounts?|quantity|quantities|particles?|traces?"
         r"|differences?|changes?|fractions?|cracks?|organisms?)\b"),
        ("m ˈɪ n ɪ t", "", ""),
    ),
    "close": (
        ("k l ˈoʊ z", rf"\b{_HELP}$", r"^(?!to\b(?! the public))"),
        ("k l ˈoʊ s", r"\b(?:so|very|too|as|how|is|are|was|were|be|been|get|gets|got|came|come"
         r"|comes|stay|stand|stood|a|that|pretty|really|quite|fairly|this|keep|hold|held)$", ""),
        ("k l ˈoʊ s", "", r"^(?:to|by|friends?|call|range|enough|relatives?|attention|together"
         r"|look|contact|race|up|shave)\b(?! (?:the|his|her|your) (?:doors?|shop|eyes))"),
    ),
    "desert": (
        ("d ɪ z ˈɚ t", rf"\b{_HELP}$", r"^(?!$|[,.!?])"),
        ("d ɪ z ˈɚ t", r"\b(?:soldiers|they|you|we|i)$", ""),
        ("d ˈɛ z ɚ t", "", ""),
    ),
    "sewer": (("s ˈu ɚ", "", ""),),
    "resume": (
        ("ɹ ɪ z ˈu m", rf"\b{_HELP}$", ""),
        ("ɹ ˈɛ z ə m ˌeɪ", rf"\b(?:{_OWN}|impressive|good|long|updated)$", ""),
        ("ɹ ɪ z ˈu m", "", ""),
    ),
    "moped": (
        ("m ˈoʊ p t", r"\b(?:he|she|i|they|we|just|and|has|have|had)$", ""),
        ("m ˈoʊ p ɛ d", "", ""),
    ),
    "nice": (("n ˈaɪ s", "", ""),),
    "number": (("n ˈʌ m b ɚ", "", ""),),
}  # fmt: skip


@cache
def _rules(word: str) -> list[tuple[tuple[str, ...], re.Pattern[str], re.Pattern[str]]]:
    return [
        (tuple(said.split()), re.compile(before), re.compile(after))
        for said, before, after in HOMOGRAPHS[word]
    ]


def phonemes_by_neighbours(words: Sequence[str], place: int) -> tuple[str, ...] | None:
    """Phonemes of the word at ``place`` of a sentence's words and marks; None where no rule fits.

    ``Polish`` with a capital inside a sentence is the language.
    """
    word = words[place].lower()
    if word not in HOMOGRAPHS:
        return None
    before = " ".join(words[max(place - REACH, 0) : place]).lower()
    after = " ".join(words[place + 1 : place + 1 + REACH]).lower()
    if word == "polish" and words[place] == "Polish" and before:
        return ("p", "ˈoʊ", "l", "ɪ", "ʃ")
    for said, front, behind in _rules(word):
        if front.search(before) and behind.search(after):
            return said
    return None
