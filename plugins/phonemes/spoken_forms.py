"""The table of the normaliser: what is written, and the words a reader says for it.

A rule is (kind, pattern, spoken form); rules are tried in this order, each over the whole text. In
a form, ``{x}`` is the group ``x`` and ``{x:reading}`` the same, as ``normalise.READINGS`` reads it.
"""

from __future__ import annotations

MONTHS = "january february march april may june july august september october november december"
_MONTH = (
    r"(?P<m>(?i:jan(?:uary|\.)?|feb(?:ruary|\.)?|mar(?:ch|\.)|apr(?:il|\.)?|may|june?\.?|july?\.?"
    r"|aug(?:ust|\.)?|sept?(?:ember|\.)?|oct(?:ober|\.)?|nov(?:ember|\.)?|dec(?:ember|\.)?))"
)
_N = r"(?<!\d)\d+(?:,\d{3})*(?:\.\d+)?"
_ROMAN = r"(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
_LONE = r"(?![ICDM]\b(?!\s*(?:[,;:.!?)]|$)))"
_SCALE = r"(?:hundred|thousand|million|billion|trillion)"
_SITES = "com|org|net|edu|gov|io|co|uk|de|fr|eu|info|ai|dev|app|tv|me"
_FILES = (
    "txt|pdf|py|md|csv|json|yaml|yml|html|css|js|exe|zip|png|jpg|jpeg|gif|mp3|mp4|wav|doc|docx|xml"
)
_HTML = (
    "a|abbr|b|big|body|blockquote|br|code|div|em|emphasis|font|h[1-6]|head|hr|html|i|img|li|ol"
    "|p|pre"
    "|prosody|break|s|say-as|small|span|speak|strong|sub|sup|table|td|th|title|tr|u|ul|voice"
)
HTML = frozenset([*_HTML.replace("h[1-6]", "h1").split("|"), *(f"h{n}" for n in range(2, 7))])
_KINGS = (
    "Louis|Henry|Charles|George|Edward|Elizabeth|William|Richard|James|Philip|Pius|Leo|Benedict"
    "|Napoleon|Alexander|Nicholas|Frederick|Catherine|Ramses|Ramesses|John Paul|Wilhelm|Francis"
    "|Ferdinand|Innocent|Gregory|Clement|Urban|Boniface|Paul|Peter|Ivan|Otto|Tut|Ptolemy|Darius"
    "|Robert"
)
_PLACES = (
    "(?:Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia"
    "|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts"
    "|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|(?:New (?:Hampshire|Jersey"
    "|Mexico|York))|(?:North|South) (?:Carolina|Dakota)|Ohio|Oklahoma|Oregon|Pennsylvania"
    "|Rhode Island|Tennessee|Texas|Utah|Vermont|(?:West )?Virginia|Washington|Wisconsin|Wyoming"
    "|D\\.C\\.)"
)
"""States: five digits behind one are a zip code."""
_SOFTWARE = (
    "Python|Java|Node|Ruby|PHP|Go|Rust|Swift|Perl|Ubuntu|Debian|Fedora|Linux|Android|iOS|macOS"
    "|CUDA|PyTorch|Django|Chrome|Firefox|Safari|Windows|GCC|Clang|LLVM"
)
_BEFORE_UNIT = rf"(?P<n>{_N})[ -]?"

RULES = (
    ("marks", r"(?s)<!--.{0,2000}?-->", " "),
    ("marks", rf"</?(?:{_HTML})(?:\s[^<>]*)?/?>", " "),
    ("marks", r"&amp;", "&"),
    ("marks", r"&nbsp;", " "),
    ("marks", r"&lt;", " less than "),
    ("marks", r"&gt;", " greater than "),
    ("marks", r"&quot;|&#39;", " "),
    ("marks", r"!?\[(?P<x>[^\[\]\n]+)\]\([^()\s]*\)", "{x}"),
    ("marks", r"(?m)^\s*#{1,6}\s+", ""),
    ("marks", r"(?m)^\s*>\s+", ""),
    ("marks", r"(?m)^\s*[-*•+–—]\s+(?!\d)", ""),
    ("lists", r"(?m)^\s*(?P<n>\d{1,3})[.)]\s+(?=[^\W\d])", "{n:cardinal}, "),
    ("marks", r"\*\*(?P<x>[^*\n]+)\*\*", "{x}"),
    ("marks", r"(?<!\w)__(?P<x>[^_\n]+)__(?!\w)", "{x}"),
    ("marks", r"(?<![\w*])\*(?P<x>[^*\s][^*\n]*)\*(?![\w*])", "{x}"),
    ("marks", r"(?<!\w)_(?P<x>[^_\s][^_\n]*)_(?!\w)", "{x}"),
    ("marks", r"~~(?P<x>[^~\n]+)~~", "{x}"),
    ("marks", r"`{1,3}(?P<x>[^`\n]{1,500})`{1,3}", "{x}"),
    ("stops", r"(?<=[a-z])(?P<x>[!?]+)(?=[A-Z])", "{x} "),
    ("stops", r"(?<=[a-z]{2})\.(?=[A-Z][a-z])", ". "),
    ("address", r"(?<![\w.+-])(?P<x>[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+)", "{x:address}"),
    ("address", r"\b(?:https?|ftp)://(?P<x>[^\s<>\"]*[^\s<>\".,;:!?)'])", "{x:address}"),
    ("address", r"\b(?P<x>www\.[^\s<>\"]*[^\s<>\".,;:!?)'])", "{x:address}"),
    ("address",
     rf"(?<![\w.@-])(?P<x>[A-Za-z0-9-]+(?:\.[a-z0-9-]+){{0,3}}\.(?:{_SITES})(?:/[\w./?=&#%-]*\w)?)"
     r"(?![\w-])", "{x:address}"),
    ("address", rf"(?<![\w.])(?P<x>[\w-]+\.(?:{_FILES}))\b", "{x:address}"),
    ("signs", r"(?<!\w)#(?P<n>\d+)\b", "number {n:cardinal}"),
    ("signs", r"(?<!\w)#(?=[A-Za-z])", "hash "),
    ("signs", r"(?<!\w)@(?=\w)", "at "),
    ("signs", r"\band/or\b", "and or"),
    ("signs", r"(?<=\w)\s?&\s?(?=\w)|(?<=\s)&(?=\s)", " and "),
    ("signs", r"(?<=[A-Za-z])/(?=[A-Za-z])(?!h\b|s\b)", " slash "),
    ("signs", r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])", " underscore "),
    ("dates", r"\b(?P<y>[12]\d{3})-(?P<m>0[1-9]|1[0-2])-(?P<d>[0-3]\d)\b",
     "{m:month} {d:ordinal}, {y:year}"),
    ("dates", r"\b(?P<m>0?[1-9]|1[0-2])/(?P<d>[0-3]?\d)/(?P<y>\d{4})\b",
     "{m:month} {d:ordinal}, {y:year}"),
    ("dates", rf"\b{_MONTH} (?P<d>[0-3]?\d)(?:st|nd|rd|th)?,? (?P<y>[12]\d{{3}})\b(?!,\d)",
     "{m:month} {d:ordinal}, {y:year}"),
    ("dates", rf"\b(?P<d>[0-3]?\d)(?:st|nd|rd|th)? (?:of )?{_MONTH},? (?P<y>[12]\d{{3}})\b",
     "the {d:ordinal} of {m:month} {y:year}"),
    ("dates", rf"\b{_MONTH} (?P<d>[0-3]?\d)(?:st|nd|rd|th)?\b(?![:.,/]\d|%)",
     "{m:month} {d:ordinal}"),
    ("dates", rf"\b(?P<d>[0-3]?\d)(?:st|nd|rd|th)? (?:of )?{_MONTH}(?![\w'])(?! be\b)",
     "the {d:ordinal} of {m:month}"),
    ("dates", rf"\b{_MONTH} (?P<y>[12]\d{{3}})\b", "{m:month} {y:year}"),
    ("dates", r"\b(?P<c>1\d|20)(?P<d>[1-9]0)'?s\b", "{c:cardinal} {d:plural}"),
    ("dates", r"\b(?P<c>1[1-9])00'?s\b", "{c:cardinal} hundreds"),
    ("dates", r"\b2000'?s\b", "two thousands"),
    ("dates", r"(?<!\w)'?(?P<d>[2-9]0)'?s\b", "{d:plural}"),
    ("numbers", r"\b(?P<x>\d{1,3}(?:\.\d{1,3}){3})\b", "{x:dotted}"),
    ("numbers", r"\b(?i:version |v\.? ?)(?P<x>\d+(?:\.\d+)*)\b", "version {x:points}"),
    ("numbers", r"\b(?P<x>\d+(?:\.\d+){2,})\b", "{x:points}"),
    ("numbers", rf"\b(?P<w>{_SOFTWARE}) (?P<x>\d+\.[1-9]\d)\b(?!%)", "{w} {x:points}"),
    ("phones", r"(?<![\w.])\+(?P<x>\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5})\b", "plus {x:groups}"),
    ("phones", r"(?<![\w.])(?P<x>(?:1[ -])?\(\d{3}\) ?\d{3}[ -]\d{4})\b", "{x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>(?:1-)?\d{3}[-. ]\d{3}[-. ]\d{4})\b", "{x:groups}"),
    ("phones", r"(?<![\w.,-])(?P<x>0\d{2,4}(?: \d{3,4}){1,3})\b", "{x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>\d{3}-\d{4})\b(?!-)", "{x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>\d{3}-\d{2}-\d{4})\b", "{x:groups}"),
    ("times", r"\b(?P<h>[01]?\d|2[0-3]):00 ?(?=[ap]\.?m\b)", "{h:cardinal} "),
    ("times", r"\b(?P<h>1[3-9]|2[0-4]):00\b", "{h:cardinal} hundred"),
    ("times", r"\b(?P<h>[01]?\d):00\b(?!:)", "{h:cardinal} o'clock"),
    ("times", r"\b(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d):(?P<s>[0-5]\d)\b",
     "{h:cardinal} {m:minutes} {s:minutes}"),
    ("times", r"\b(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d)(?:(?= ?[ap]\.?m\b) ?|\b)",
     "{h:cardinal} {m:minutes} "),
    ("times", r"\b(?P<h>1?\d) ?(?=[ap]\.?m\b)", "{h:cardinal} "),
    ("times", r"(?<=[a-z] )(?P<x>[apAP])\.?[mM]\b(?:\.(?=\s+[a-z\d]))?", "{x} m"),
    ("numbers", r"\b(?P<a>\d+):(?P<b>\d+)\b", "{a:cardinal} to {b:cardinal}"),
    ("money", rf"(?P<c>(?:US|CA|AU)?\$|[£€¥])\s?(?P<n>{_N})(?: ?(?P<s>{_SCALE})\b)",
     "{n:number} {s} {c:many}"),
    ("money", rf"(?P<c>(?:US|CA|AU)?\$|[£€¥])\s?(?P<n>{_N}) ?(?P<s>[kKMB]|[mb]n|T)\b",
     "{n:number} {s:scale} {c:many}"),
    ("money", rf"(?P<c>(?:US|CA|AU)?\$"
    rf"|[£€¥])\s?(?P<a>\d+(?:,\d{{3}})*)\s?[-–]\s?(?:[$£€¥])?(?P<b>{_N})",
     "{a:number} to {b:number} {c:many}"),
    ("money", r"(?P<c>(?:US|CA|AU)?\$|[£€¥])\.(?P<n>\d\d)\b", "{c}0.{n}"),
    ("money", r"(?P<c>(?:US|CA|AU)?\$|[£€¥])[-−](?=\d)", "-{c}"),
    ("money", rf"(?P<x>-?(?:(?:US|CA|AU)?\$|[£€¥])\s?{_N})", "{x:money}"),
    ("money", rf"(?P<n>{_N})\s?(?P<c>[€£¥$])", "{n:number} {c:many}"),
    ("money", r"\b(?P<n>\d+) ?¢", "{n:counted} {n:cents}"),
    ("money", rf"\b(?P<n>{_N}) ?(?P<c>USD|EUR|GBP|JPY|CHF|CAD|AUD|INR|CNY)\b",
     "{n:number} {c:many}"),
    ("money", rf"\b(?P<c>USD|EUR|GBP|JPY|CHF|CAD|AUD|INR|CNY) (?P<n>{_N})\b",
     "{n:number} {c:many}"),
    ("numbers", r"(?<![\w.,$£€¥-])(?P<x>\d{5})-(?P<y>\d{4})(?![\w-])", "{x:digits}, {y:digits}"),
    ("numbers", r"\b(?P<w>(?i:zip code|zip|postcode|postal code|room|code|pin|flight|extension"
    r"|ext\.|passcode|password)(?i: (?:is|was|number|no\.))?:?) (?P<x>\d{3,8})\b(?![.,:/-]\d)",
     "{w} {x:digits}"),
    ("numbers",
     rf"\b(?P<s>[A-Z]{{2}}|{_PLACES}) (?P<x>\d{{5}})(?![,.]?\d| (?!is |was |and |or )[a-z])",
     "{s} {x:digits}"),
    ("numbers", r"\b(?P<s>[A-Z][a-z]+ [A-Z][a-z]+,?) (?P<x>\d{5})(?=\s*(?:[.!?]?\s*$|\n|, [A-Z]))",
     "{s} {x:digits}"),
    ("numbers",
     r"(?<![\w.,$£€¥-])(?P<x>\d{5})(?= (?:[NSEW]\.? )?[A-Z][a-z]+ (?:St|Street|Ave|Avenue"
     r"|Road|Rd|Blvd|Boulevard|Drive|Dr|Lane|Ln|Way|Court|Highway)\b)", "{x:digits}"),
    ("numbers", r"\A\s*(?P<x>\d{5})(?=\s*[.!?]?\s*\Z)", "{x:digits}"),
    ("numbers", r"(?<![\d.,:/])00(?P<x>[1-9])\b(?![.,]\d)", "double oh {x:cardinal}"),
    ("numbers", r"(?<![\d.,:/-])(?P<x>0\d+)\b(?![.,]\d)", "{x:digits}"),
    ("ranges", rf"(?P<a>{_N})\s?(?:°[CF]?|%)?\s?[-–—~]\s?(?=\d)(?<!\s-\s)", "{a:number} to "),
    ("signs", r"(?<![\w)])[-−](?=\d)", "minus "),
    ("signs", rf"(?P<n>{_N}) ?%", "{n:number} percent"),
    ("units", rf"{_BEFORE_UNIT}° ?C\b", "{n:counted} {n:degree} Celsius"),
    ("units", rf"{_BEFORE_UNIT}° ?F\b", "{n:counted} {n:degree} Fahrenheit"),
    ("units", rf"(?P<n>{_N}) ?°", "{n:counted} {n:degree}"),
    ("units", rf"(?P<n>{_N})(?P<k>[ -]?)(?P<u>UNITS)(?P<p>[²³23]?)(?![\w²³])", "{*:measure}"),
    ("fractions", r"(?<![\d/.])(?P<a>\d+)[ -](?P<b>\d+)/(?P<c>[2-9]|1[0-9]|32|64|100)\b(?!/)",
     "{a:cardinal} and {*:fraction}"),
    ("fractions", r"\b(?P<a>24/7|9/11|50/50|20/20|4/20)\b", "{a:cardinals}"),
    ("fractions", r"(?<![\d/.])(?P<b>\d+)/(?P<c>[2-9]|10|12|16|32|64|100)\b(?!/)", "{*:fraction}"),
    ("fractions", r"(?<![\d/.])(?P<a>\d+)/(?P<b>\d+)\b", "{a:cardinal} over {b:cardinal}"),
    ("signs", r"(?<=\d) - (?=\d)", " minus "),
    ("signs", r"(?<=\w) ?[−] ?(?=\w)", " minus "),
    ("signs", r"(?<=\d) ?[*×] ?(?=\d)|(?<=\d) x (?=\d)|(?<=\d)x(?=\d)", " times "),
    ("signs", r"(?<=[\w)]) ?[*×] ?(?=\d)", " times "),
    ("signs", r"(?<=[\w)]) ?÷ ?(?=[\w(])", " divided by "),
    ("signs", r"(?<=\d) / (?=\d)", " divided by "),
    ("signs", r"(?<=[\w)]) \+ (?=[\w(])|(?<=\d)\+(?=\d)", " plus "),
    ("signs", r"(?<=\w)\+\+", " plus plus"),
    ("signs", r"(?<=\d)\+(?!\d)", " plus"),
    ("signs", r"(?<![\w)])\+(?=\d)", "plus "),
    ("signs", r" ?± ?", " plus or minus "),
    ("signs", r" ?(?:≠|!=) ?", " is not equal to "),
    ("signs", r" ?(?:≤|<=) ?", " is less than or equal to "),
    ("signs", r" ?(?:≥|>=) ?", " is greater than or equal to "),
    ("signs", r" ?≈ ?|(?<!\w)~(?=\d)", " approximately "),
    ("signs", r" ?={1,2} ?(?=[\w(-])(?<=[\w)=] )|(?<=[\w)])==?(?=[\w(-])", " equals "),
    ("signs", r"(?<=\w) < (?=\w)|(?<=\d)<(?=\d)", " is less than "),
    ("signs", r"(?<=\w) > (?=\w)|(?<=\d)>(?=\d)", " is greater than "),
    ("signs", r"(?<=\w)(?:²|\^2)", " squared"),
    ("signs", r"(?<=\w)(?:³|\^3)", " cubed"),
    ("signs", r"©", " copyright "),
    ("signs", r"[™®]", " "),
    ("roman", rf"\b(?P<w>{_KINGS}) {_LONE}(?P<x>{_ROMAN})(?![\w'.-]*\w)",
     "{w} the {x:roman_ordinal}"),
    ("roman", rf"\b(?P<w>(?i:chapter|act|part|volume|book|section|scene|phase|type|stage"
    rf"|vol\.)) {_LONE}(?P<x>{_ROMAN}|[ivx]+)\b",
     "{w} {x:roman}"),
    ("roman", r"\b(?P<x>I{2,3}|I[VX]|VI{1,3}|X(?:IX|IV|V?I{1,3})|XX(?:IX|IV|V?I{0,3})|XX{1,2}(?:IX"
    r"|IV|V?I{1,3})?"
     r"|XL[IVX]{1,4}|L(?:VI{1,3}|IV|IX|II)|M(?:CM|M)[XVILC]*[IVX])\b(?!['’.]\w)", "{x:roman}"),
)  # fmt: skip

ABBREVIATIONS = {
    "prof": "professor", "gov": "governor", "rep": "representative", "sen": "senator",
    "gen": "general", "col": "colonel", "capt": "captain", "lt": "lieutenant", "sgt": "sergeant",
    "rev": "reverend", "hon": "honorable", "pres": "president", "ave": "avenue",
    "blvd": "boulevard",
    "rd": "road", "etc": "et cetera", "approx": "approximately", "dept": "department",
    "sr": "senior", "jr": "junior", "lbs": "pounds", "lb": "pounds", "oz": "ounces",
    "jan": "january", "feb": "february", "apr": "april", "aug": "august", "sept": "september",
    "sep": "september", "oct": "october", "nov": "november", "dec": "december",
    "mon": "monday", "tue": "tuesday", "tues": "tuesday", "wed": "wednesday", "thu": "thursday",
    "thurs": "thursday", "fri": "friday", "inc": "incorporated", "corp": "corporation",
    "ltd": "limited", "co": "company", "est": "established", "vs": "versus", "v": "versus",
    "e.g": "for example", "i.e": "that is", "a.k.a": "also known as", "ph.d": "P H D",
    "mt": "mount", "ft": "fort", "hwy": "highway", "apt": "apartment", "min": "minutes",
    "hr": "hours", "hrs": "hours", "max": "maximum", "temp": "temperature", "tel": "telephone",
    "mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "cf": "compare", "ca": "circa",
    "cmdr": "commander", "maj": "major", "et al": "and others", "ext": "extension",
}  # fmt: skip
"""An abbreviation with its full stop -> what is said. gruut knows Ms."""

AMBIGUOUS = frozenset("max min co jan mar wed mon fri sat sun".split())
"""Abbreviations that are words or names, too, where a sentence ends with them."""

BEFORE_NUMBERS = {
    "no": "number", "nos": "numbers", "p": "page", "pp": "pages", "fig": "figure",
    "figs": "figures", "vol": "volume", "ch": "chapter", "sec": "section", "eq": "equation",
    "art": "article", "ed": "edition", "ref": "reference", "par": "paragraph", "op": "opus",
}  # fmt: skip
"""The same where a number follows: "No. 5"."""

STREETS = {"st": "street", "dr": "drive"}
"""The same behind a name: "Washington St.", "Oak Dr."."""

NEVER_LAST = frozenset(
    "prof gov rep sen gen col capt lt sgt rev hon pres approx vs v e.g i.e a.k.a mt ft mr mrs"
    " dr st cf"
    " ca cmdr maj".split()
)
"""Abbreviations whose full stop ends no sentence."""

UNITS = {
    "km/h": "kilometer per hour", "kph": "kilometer per hour", "km": "kilometer", "kg": "kilogram",
    "mg": "milligram", "g": "gram", "ft": "foot", "mph": "mile per hour", "mi": "mile",
    "m": "meter",
    "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "m/s": "meter per second",
    "GHz": "gigahertz", "MHz": "megahertz", "kHz": "kilohertz", "Hz": "hertz", "lbs": "pound",
    "lb": "pound", "oz": "ounce", "L": "liter", "l": "liter", "ml": "milliliter",
    "mL": "milliliter",
    "GB": "gigabyte", "MB": "megabyte", "KB": "kilobyte", "kB": "kilobyte", "TB": "terabyte",
    "Mbps": "megabit per second", "Gbps": "gigabit per second", "kWh": "kilowatt hour",
    "kW": "kilowatt", "MW": "megawatt", "W": "watt", "V": "volt", "mA": "milliamp", "mAh":
    "milliamp hour", "ms": "millisecond", "s": "second", "min": "minute", "h": "hour", "hr": "hour",
    "hrs": "hour", "dB": "decibel", "ha": "hectare", "yd": "yard", "in": "inch", "gal": "gallon",
    "px": "pixel", "kcal": "kilocalorie", "cal": "calorie", "kPa": "kilopascal", "psi":
    "pound per square inch", "sq ft": "square foot", "sq km": "square kilometer", "fps":
    "frame per second", "rpm": "revolution per minute", "Ω": "ohm", "μm": "micrometer",
}  # fmt: skip
PLURALS = {"foot": "feet", "inch": "inches", "hertz": "hertz", "gigahertz": "gigahertz",
           "megahertz": "megahertz", "kilohertz": "kilohertz"}  # fmt: skip

MONEY = {
    "$": ("dollar", "cent"), "US$": ("US dollar", "cent"), "CA$": ("Canadian dollar", "cent"),
    "AU$": ("Australian dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"),
    "¥": ("yen", ""), "USD": ("US dollar", "cent"), "EUR": ("euro", "cent"), "GBP": ("pound",
    "penny"),
    "JPY": ("yen", ""), "CHF": ("Swiss franc", ""), "CAD": ("Canadian dollar", "cent"),
    "AUD": ("Australian dollar", "cent"), "INR": ("rupee", ""), "CNY": ("yuan", ""),
}  # fmt: skip
SAME_PLURAL = {"yen": "yen", "yuan": "yuan", "penny": "pence"}
SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion",
          "t": "trillion"}  # fmt: skip

SPELT = frozenset(
    "us it tv pc id ai un eu uk who mit cd dvd am pm ip ir is ad la dc va or ma pa al id ms mr"
    " dr mt"
    " st led ram rom pr hr ed ti ci it".split()
)
"""Capitals that are letters although the lexicon has such a word."""

SHORT_WORDS = frozenset(
    "no the end yes one two six ten not you my we he she so go up on and but to me be do for"
    " all now"
    " new big why how out get let see say stop off run too never in if ok ha oh".split()
)
"""Words of up to three letters that are words although alone in capitals."""

SIGNS_IN_ADDRESSES = {
    ".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", "?": "question mark",
    "=": "equals", "&": "and", "#": "hash", "+": "plus", "%": "percent", ":": "colon",
}  # fmt: skip
