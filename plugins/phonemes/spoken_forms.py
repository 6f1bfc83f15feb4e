"""The table of the normaliser: what is written, and the words a reader says for it.

A rule is (kind, pattern, spoken form); rules are tried in this order, each over the whole text. In
a form, ``{x}`` is the group ``x`` and ``{x:reading}`` the same, as ``normalise.READINGS`` reads it.
"""

from __future__ import annotations

MONTHS = "january february march april may june july august september october november december"
_MONTH = (
    r"(?P<m>(?i:jan(?:uary|\.)?|feb(?:ruary|\.)?|mar(?:ch|\.|(?= \d))|apr(?:il|\.)?|may"
    r"|june?\.?|july?\.?|aug(?:ust|\.)?|sept?(?:ember|\.)?|oct(?:ober|\.)?|nov(?:ember|\.)?|dec(?:ember|\.)?))"
)
_N = r"(?<!\d)\d+(?:,\d{3})*(?:\.\d+)?"
_ROMAN = r"(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})(?<=[IVXLCDM])"
_LONE = r"(?![ICDM]\b(?!\s*(?:[,;:.!?)]|$)))"
_SCALE = r"(?:hundred|thousand|million|billion|trillion)"
_SITES = (
    "com|org|net|edu|gov|io|co|uk|de|fr|eu|info|ai|dev|app|tv|me|us|ca|au|nl|se|ch|jp|cn|ru|mil"
    "|int|biz|xyz|tech|online|ly"
)
_FILES = (
    "txt|pdf|py|md|csv|json|yaml|yml|html|css|js|exe|zip|png|jpg|jpeg|gif|mp3|mp4|wav|doc|docx|xml"
    "|sh|cpp|hpp|rs|ts|tsx|jsx|php|sql|toml|ini|svg|webp|mov|avi|mkv|flac|ogg|tar|gz|rar|iso|dll"
    "|apk|ppt|pptx|xls|xlsx|epub|ipynb|onnx|cfg|conf|htm|jar|deb|dmg|bak|tmp|log"
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
_CURRENCY = r"(?:(?:US|CA|AU|NZ|HK|MX|\b[ACSR])?\$|[£€¥₹₩₽₺₫₱₦₴₪฿₿])"
_ONE_OF = (
    r"[Aa]n?|[Aa]nother|[Tt]he|[Tt]his|[Ee]very|[Ee]ach|[Tt]wo|[Tt]hree|[Ff]our|[Ff]ive|[Tt]en"
    r"|[Ss]everal|[Mm]any|[Ss]ome"
)
_NO_THING = (
    r"(?:a|an|in|on|to|for|and|or|per|of|at|from|by|with|is|was|are|were|each|more|less|off|over"
    r"|under|they|that|which|who|worth|i|he|she|we|you|it|ago|instead|back|plus|than|up|as|but|if"
    r"|when|because|so|today|now|last|next|every|before|after|until|all|does|did|has|had|goes|went)"
)
"""Words behind a sum that are nothing it could be the price of."""
_PERIODS = (
    r"(?:second|sec|minute|min|hour|hr|day|night|week|wk|month|mo|year|yr|person|head|unit|user|seat"
    r"|page|lb|kg|oz|gal|gallon|pound|mile|share|sq ft|pack|item|piece|hundred|thousand|million)"
)
_COUNTED = r"cents?|dollars?|miles?|meters?|feet|gallons?|liters?"
_VERBS = (
    r"(?:am|was|have|had|do|did|will|would|can|could|shall|should|may|might|must|like|liked|love"
    r"|loved|want|wanted|need|needed|know|knew|think|thought|see|saw|say|said|wrote|read|use|used"
    r"|make|made|find|found|get|got|mean|meant|never|always|also|just|really|go|went|hate|feel"
    r"|felt|believe|believed|tell|told|take|took|don|didn|give|gave|come|came|play|played|put|left"
    r"|chose|picked|learned|live|lived|work|worked|hope|wish|wanna|still|already|only|first|once)"
)
"""Words behind the pronoun I, which is no Roman one in front of them."""
_COUNTED_PARTS = (
    r"(?:Type|Phase|Stage|Class|Grade|Title|Tier|Part|Act|Chapter|Book|Volume|Section|Article"
    r"|Schedule|Category|Level|Episode|Division|Mark|Apollo|Appendix|Group|Scene|Canto|Unit)"
)
_CLOCK = (
    r"(?i:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty"
    r"|forty|fifty|o'clock|thirteen|fourteen|sixteen|seventeen|eighteen|nineteen|noon|midnight)"
)
_CALL = (
    r"(?i:\b(?:call(?:ed|ing)?|dial(?:l?ed|l?ing)?|phone|tel(?:ephone)?\.?|fax|mobile|cell|texts?"
    r"|whatsapp|hotline|sms|ring|number is|reach (?:me|us)|contact)\b(?:(?: us| me| at| on)*|:))"
)
_CALL_ENDS = r"(?=\s*(?:[.,;:!?)]|$|(?:or|and|for|now|if|in|to|today|at|when|from|immediately)\b))"
_DAY = r"(?:Mon|Tues?|Wed|Thurs?|Fri|Sat|Sun)"
_RULER = r"(?:King|Queen|Pope|Emperor|Empress|Tsar|Czar|Kaiser|Sultan|Prince)"
_BEFORE_UNIT = rf"(?P<n>{_N})[ -]?"

RULES = (
    ("marks", r"\A[\s|:*_=-]+\Z", ""),
    ("marks", r"\A\s*```(?:python|bash|sh|json|ya?ml|js|javascript|html|css|cpp|java|rust|go|sql"
     r"|text|console|xml|toml)\b", ""),
    ("marks", r"(?m)^\s*[-*_=]{3,}\s+", ""),
    ("marks", r"(?m)^\s*(?:[-*+]\s+)?\[[ xX]\]\s", ""),
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
    ("lists", r"(?m)^\s*(?P<n>\d{1,3})\.(?=[A-Z][a-z])", "{n:cardinal}, "),
    ("lists", r"(?m)^\s*\(?(?P<n>[A-Za-z])\)\s+(?=\w)", "{n:upper}, "),
    ("lists", r"(?m)^\s*\(?(?P<n>[ivx]{2,4})\)\s+(?=\w)", "{n:roman}, "),
    ("marks", r"\*\*(?P<x>[^*\n]+)\*\*", "{x}"),
    ("marks", r"(?<!\w)__(?P<x>[^_\n]+)__(?!\w)", "{x}"),
    ("marks", r"(?<![\w*])\*(?P<x>[^*\s][^*\n]*)\*(?![\w*])", "{x}"),
    ("marks", r"(?<!\w)_(?P<x>[^_\s][^_\n]*)_(?!\w)", "{x}"),
    ("marks", r"~~(?P<x>[^~\n]+)~~", "{x}"),
    ("marks", r"`{1,3}(?P<x>[^`\n]{1,500})`{1,3}", "{x}"),
    ("stops", r"(?<=[A-Za-z])(?P<x>[!?]+)(?=[A-Z])", "{x} "),
    ("stops", r"(?<=[a-z]{2})\.(?=[A-Z][a-z])", ". "),
    ("address", r"(?<![\w.+-])(?:mailto:)?(?P<x>[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+)",
     "{x:address}"),
    ("address", r"\b(?i:https?|ftp)://(?P<x>[^\s<>\"]*[^\s<>\".,;:!?)'/])/?", "{x:address}"),
    ("address", r"\b(?P<x>www\.[^\s<>\"]*[^\s<>\".,;:!?)'/])/?", "{x:address}"),
    ("address",
     rf"(?<![\w.@-])(?P<x>[A-Za-z0-9-]+(?:\.[a-z0-9-]+){{0,3}}\.(?:{_SITES})(?::\d{{2,5}}\b)?"
     r"(?:/[\w./?=&#%~+-]*\w)?)/?(?![\w-])", "{x:address}"),
    ("address", r"(?<![\w.@-])(?P<x>(?=[a-z0-9-]*[a-z])[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}"
     r"/[\w./?=&#%~+-]*\w)", "{x:address}"),
    ("address", rf"(?<![\w.])(?P<x>[\w-]+(?:\.[\w-]+)*\.(?:{_FILES}))\b", "{x:address}"),
    ("address", r"(?<![\w/.])(?P<x>~?/[\w.-]+(?:/[\w.-]+)+)", "{x:address}"),
    ("address", r"(?<![\w/])(?P<x>~/[\w.-]*\w)", "{x:address}"),
    ("address", r"\b(?P<x>[A-Z]:\\[\w\\.-]*\w)", "{x:address}"),
    ("address", r"\b(?P<x>(?:\d{1,3}\.){3}\d{1,3}):(?P<p>\d{2,5})\b",
     "{x:dotted} colon {p:digits}"),
    ("address", r"(?<!\w)\.NET\b", "dot net"),
    ("signs", r"\b(?P<x>[CFJ])#(?!\w)", "{x} sharp"),
    ("signs", r"(?<!\w)#(?P<n>\d+)\b", "number {n:cardinal}"),
    ("signs", r"(?<!\w)#(?=\w*[A-Za-z])", "hash "),
    ("signs", r"(?<!\w)@(?P<x>\w+)", "at {x:address}"),
    ("signs", r"\band/or\b", "and or"),
    ("signs", r"\bw/o\b", "without"),
    ("signs", r"\bw/ ?(?=[A-Za-z])", "with "),
    ("signs", r"\bb/c\b", "because"),
    ("signs", r"\b[nN]/[aA]\b", "not applicable"),
    ("signs", rf"(?<![\d.,])(?P<a>\d[\d.,]*(?: ?(?:[kKMB%]|{_COUNTED}|{_SCALE})\b)?) ?/ ?"
     rf"(?P<x>{_PERIODS})\b", "{a} per {x:period}"),
    ("signs", r"(?<![\w)<>=-])(?<!\w )<\s?(?=[\d$£€¥])", "less than "),
    ("signs", r"(?<![\w)<>=-])(?<!\w )>\s?(?=[\d$£€¥])", "greater than "),
    ("numbers", r"\b[Nn]o\. of\b", "number of"),
    ("units", r"(?<=\d/\d)\"|(?<=/\d\d)\"", " inch"),
    ("signs", r"(?P<a>\d+)-(?P<b>\d+)(?= ?=)", "{a:cardinal} minus {b:cardinal}"),
    ("signs", r"(?<![\w/])[~≈]\s?(?=[\d$£€¥])", "approximately "),
    ("numbers", r"(?<![\w.)$£€¥])\.(?=\d)", "0."),
    ("numbers", r"\b(?P<x>40[13])\((?P<y>[kb])\)", "{x:digits} {y:upper}"),
    ("numbers", r"(?<![\d.,/-])(?P<x>[1-9]\d{0,2}(?: \d{3}){2,})(?![ .,-]?\d)", "{x:joined}"),
    ("numbers", r"(?<![\w.,/-])(?P<x>[1-9]\d{0,2} 000)(?![ .,-]?\d)", "{x:joined}"),
    ("numbers", r"(?<![\w.])(?P<a>\d+(?:\.\d+)?)[eE]\+?(?P<b>-?\d{1,3})\b",
     "{a:number} times ten to the power of {b}"),
    ("signs", r"(?<=[\w)])\^\(?\{?(?!\{?[23]\b)(?P<x>-?\d+|[a-z]\b)\}?\)?",
     " to the power of {x:signed}"),
    ("units", r"(?<![\w'\"])(?P<a>\d{1,3})' ?(?P<b>\d{1,2})(?:\"|'')",
     "{a:cardinal} foot {b:cardinal}"),
    ("units", r"(?<![\w'\"])(?P<a>[3-8])'(?P<b>\d|1[01])\b(?!['\d])",
     "{a:cardinal} foot {b:cardinal}"),
    ("units", rf"(?P<a>{_N})\"? ?[x×] ?(?P<b>{_N})\"", "{a:number} by {b:number} inches"),
    ("units", rf"(?<![\"\w])(?P<n>{_N})\"(?= (?:by|wide|tall|long|deep|thick)\b)",
     "{n:number} inches"),
    ("units", rf"(?<![\"\w])(?P<n>{_N})\"(?= (?:screen|monitor|pipes?|TV|display|laptop|nails?)\b)",
     "{n:number} inch"),
    ("signs", r"\b(?P<a>[A-Z]{1,3})&(?P<b>[A-Z]{1,3})\b", "{a:spelt} and {b:spelt}"),
    ("signs", r"(?<=\w)\.(?=[A-Za-z_]\w*\()", " dot "),
    ("signs", r"(?<=\w) ?(?:→|->|=>) ?(?=\w)", " to "),
    ("signs", r"(?<=\w)\s?&\s?(?=\w)|(?<=\s)&(?=\s)", " and "),
    ("signs", r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])", " underscore "),
    ("dates", r"\b(?P<y>[12]\d{3})([-/])(?P<m>0?[1-9]|1[0-2])\2(?P<d>[0-3]?\d)\b",
     "{m:month} {d:ordinal}, {y:year}"),
    ("dates", r"\b(?P<m>0[1-9]|1[0-2])-(?P<d>[0-3]\d)-(?P<y>(?:19|20)\d\d)\b",
     "{m:month} {d:ordinal}, {y:year}"),
    ("dates", r"\b(?P<m>0?[1-9]|1[0-2])/(?P<d>[0-3]?\d)/(?P<y>\d{4})\b",
     "{m:month} {d:ordinal}, {y:year}"),
    ("dates", r"\b(?P<d>1[3-9]|2\d|3[01])/(?P<m>0?[1-9]|1[0-2])/(?P<y>\d{4})\b",
     "the {d:ordinal} of {m:month} {y:year}"),
    ("dates", r"\b(?P<d>0?[1-9]|[12]\d|3[01])\.(?P<m>0?[1-9]|1[0-2])\.(?P<y>(?:19|20)\d\d)\b",
     "the {d:ordinal} of {m:month} {y:year}"),
    ("dates", r"(?<![\d/])(?P<m>0?[1-9]|1[0-2])/(?P<d>0?[1-9]|[12]\d|3[01])/(?P<y>\d\d)\b(?!/)",
     "{m:month} {d:ordinal}, {y:short_year}"),
    ("dates", r"(?<![\d/])(?P<y>(?:19|20)\d\d)/(?P<b>\d\d)\b(?!/)", "{y:year} {b:minutes}"),
    ("dates", r"(?<!\w)'(?P<y>\d\d)\b(?!['\w])", "{y:minutes}"),
    ("dates", rf"\b{_MONTH} (?P<a>[0-3]?\d)(?:st|nd|rd|th)? ?[-–—] ?(?P<b>[0-3]?\d)"
     r"(?:st|nd|rd|th)?\b(?![-/.:]\d)", "{m:month} {a:ordinal} to {b:ordinal}"),
    ("dates", rf"\b{_MONTH} (?P<d>[0-3]?\d)(?:st|nd|rd|th)?,? (?P<y>[12]\d{{3}})\b(?!,\d)",
     "{m:month} {d:ordinal}, {y:year}"),
    ("dates", rf"\b(?:[Tt]he )?(?P<d>[0-3]?\d)(?:st|nd|rd|th)? (?:of )?{_MONTH},? "
     r"(?P<y>[12]\d{3})\b",
     "the {d:ordinal} of {m:month} {y:year}"),
    ("dates", rf"\b{_MONTH} (?P<d>[0-3]?\d)(?:st|nd|rd|th)?\b(?![:.,/]\d|%)",
     "{m:month} {d:ordinal}"),
    ("dates", rf"\b(?:[Tt]he )?(?P<d>[0-3]?\d)(?:st|nd|rd|th)? (?:of )?{_MONTH}(?![\w'])(?! be\b)",
     "the {d:ordinal} of {m:month}"),
    ("dates", rf"\b{_MONTH} (?P<y>[12]\d{{3}})\b", "{m:month} {y:year}"),
    ("dates", r"\b(?P<c>1\d|20)(?P<d>[1-9]0)'?s\b", "{c:cardinal} {d:plural}"),
    ("dates", r"\b(?P<c>1[1-9])00'?s\b", "{c:cardinal} hundreds"),
    ("dates", r"\b2000'?s\b", "two thousands"),
    ("dates", r"(?<!\w)'?(?P<d>[2-9]0)'?s\b", "{d:plural}"),
    ("numbers", r"(?:(?<=[A-Za-z])-?|(?<![\w.,])(?=[1-9]\d\ds))(?P<x>\d+)'?s\b", " {x:several}"),
    ("phones", r"(?<![\w.])\+(?=(?:\D{0,2}\d){7,15}\b)(?P<x>\d{1,3}(?:[ .-]?\(?\d{1,7}\)?){1,6})\b",
     "plus {x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>1-8\d\d)-(?P<w>[A-Z]{3,}(?:-[A-Z]{3,})?)\b", "{x:groups} {w}"),
    ("phones", r"(?<![\w.])(?P<x>(?:1[ -])?\(\d{3}\) ?\d{3}[ -]\d{4})\b", "{x:groups}"),
    ("phones", r"(?<!\w)(?P<x>\(0\d{2,5}\) ?\d{3,6}(?:[ -]\d{3,4})?)\b", "{x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>(?:1-)?\d{3}[-. ]\d{3}[-. ]\d{4})\b", "{x:groups}"),
    ("phones", r"(?<![\w.,-])(?P<x>0\d{2,4}(?: \d{3,8}){1,3})\b", "{x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>\d{3}-\d{4})\b(?!-)", "{x:groups}"),
    ("phones", r"(?<![\w.,-])(?<!\d )(?P<x>\d{3} \d{4})\b(?![-.,:]?\d| \d)", "{x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>\d{3}-\d{2}-\d{4})\b", "{x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>\d{4}([ -])\d{4}\2\d{4}\2\d{4})\b", "{x:groups}"),
    ("phones", r"(?<![\w.-])(?P<x>\d+(?:-\d+){3,})\b", "{x:groups}"),
    ("phones", rf"(?P<w>{_CALL}) (?P<x>\d{{3,}})(?P<o>,? or )(?P<y>\d{{3,}})\b{_CALL_ENDS}",
     "{w} {x:digits}{o}{y:digits}"),
    ("phones", rf"(?P<w>{_CALL}) (?P<x>\d{{3,}}(?:[ -]\d+)*){_CALL_ENDS}", "{w} {x:groups}"),
    ("phones", r"(?P<w>\b[Tt]ext \w+ to) (?P<x>\d{4,6})\b", "{w} {x:digits}"),
    ("phones", r"(?P<w>\b(?i:order|account|serial|reference|case|invoice|ticket|policy|tracking)"
     r"(?i: (?:no\.|number|id))?:?) #?(?P<x>\d+(?:-\d+)+)\b", "{w} {x:groups}"),
    ("phones", r"\b911(?= (?:calls?|operators?|dispatch\w*|emergency)\b)", "nine one one"),
    ("phones", r"(?i)\bext\.? ?(?P<x>\d{1,6})\b", "extension {x:digits}"),
    ("phones", r"(?<![\w.,/$£€¥-])(?P<x>\d{10,})(?![\w/%-]|[.,]\d| ?(?:hundred|thousand))",
     "{x:phone}"),
    ("numbers", r"\b(?P<x>\d{1,3}(?:\.\d{1,3}){3})\b", "{x:dotted}"),
    ("numbers", r"\b(?i:version |v\.? ?)(?P<x>\d+(?:\.\d+)*)\b", "version {x:points}"),
    ("numbers", r"\b(?P<x>\d+(?:\.\d+){2,})\b", "{x:points}"),
    ("numbers", rf"\b(?P<w>{_SOFTWARE}) (?P<x>\d+\.[1-9]\d)\b(?!%)", "{w} {x:points}"),
    ("times", r"\b(?P<h>[01]?\d|2[0-3]):00 ?(?=[apAP]\.?[mM]\b)", "{h:cardinal} "),
    ("times", r"\b(?P<h>0\d)00(?: ?(?:hrs?|h)| hours)\b", "{h:minutes} hundred hours"),
    ("times", r"\b(?P<h>[01]\d|2[0-3])(?P<m>[0-5]\d) ?(?:hrs?|h)\b",
     "{h:minutes} {m:minutes} hours"),
    ("times", r"\b(?P<h>1\d|2[0-3]):?00 ?(?:hrs?|h)\b", "{h:cardinal} hundred hours"),
    ("times", rf"\b(?P<a>{_DAY})\.? ?[-–] ?(?P<b>{_DAY})\b(?:\.(?= [a-z\d]))?",
     "{a:day} to {b:day}"),
    ("times", r"\b12:00(?= (?:noon|midnight)\b)", "twelve"),
    ("times", r"\b(?P<h>1[3-9]|2[0-4]):00\b", "{h:cardinal} hundred"),
    ("times", r"\b(?P<h>[01]?\d):00\b(?!:)", "{h:cardinal} o'clock"),
    ("times", r"\b(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d):(?P<s>[0-5]\d)\b",
     "{h:cardinal} {m:minutes} {s:minutes}"),
    ("times", r"\b(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d)(?:(?= ?[apAP]\.?[mM]\b) ?|\b)",
     "{h:cardinal} {m:minutes} "),
    ("times", r"\b(?P<h>1?\d) ?(?=[apAP]\.?[mM]\b)", "{h:cardinal} "),
    ("times", rf"\b(?P<w>{_CLOCK}) (?P<x>[apAP])\.?[mM]\b(?:\.(?=\s+[a-z\d]))?",
     "{w} {x:upper} M"),
    ("numbers", r"\b(?P<a>\d+):(?P<b>\d+)\b", "{a:cardinal} to {b:cardinal}"),
    ("money", rf"(?P<c>{_CURRENCY})\s?(?P<n>\d{{1,3}}(?:\.\d{{3}})*),(?P<d>\d\d)(?!\d)",
     "{c}{n:joined}.{d}"),
    ("money", r"(?<![\d.,])(?P<n>\d{1,3}(?:\.\d{3})*),(?P<d>\d\d) ?(?P<c>[€£])",
     "{c}{n:joined}.{d}"),
    ("money", rf"\b(?P<d>{_ONE_OF}) (?P<c>{_CURRENCY})(?P<n>{_N})(?P<s>(?: {_SCALE})?)"
     rf" (?=[a-z]+)(?!{_NO_THING}\b)(?!{_SCALE}\b)", "{d} {n:number}{s} {c:one} "),
    ("money", rf"(?P<c>{_CURRENCY})\s?(?P<a>\d+(?:,\d{{3}})*(?:\.\d+)?)\s?[-–]\s?(?:{_CURRENCY})?"
     rf"(?P<b>{_N})(?P<s>(?: {_SCALE}\b)?)", "{a:number} to {b:number}{s} {c:many}"),
    ("money", rf"(?P<c>{_CURRENCY})\s?(?P<n>{_N})(?: ?(?P<s>{_SCALE})\b)",
     "{n:number} {s} {c:many}"),
    ("money", rf"(?P<c>{_CURRENCY})\s?(?P<n>{_N}) ?(?P<s>[kKMBmb]|[mb]n|T)\b",
     "{n:number} {s:scale} {c:many}"),
    ("money", rf"(?P<c>{_CURRENCY})\.(?P<n>\d\d)\b", "{c}0.{n}"),
    ("money", rf"(?P<c>{_CURRENCY})[-−](?=\d)", "-{c}"),
    ("money", rf"(?P<x>-?{_CURRENCY}\s?{_N})\+(?!\d)", "{x:money} plus"),
    ("money", rf"(?P<x>-?{_CURRENCY}\s?{_N})", "{x:money}"),
    ("money", r"\b(?:Rs\.?|INR) ?(?P<n>\d[\d,]*)", "{n:number} rupees"),
    ("money", rf"(?P<n>{_N})\s?(?P<c>[€£¥$₹₩₽₺₫₱₦₴₪฿₿])", "{n:number} {c:many}"),
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
    ("fractions", r"(?<![\d/.])(?P<a>\d+)[ -](?P<b>\d+)/(?P<c>[2-9]|1[0-9]|32|64|100)\b(?!/)",
     "{a:cardinal} and {*:fraction}"),
    ("ranges", r"\b(?P<a>\d+)(?:st|nd|rd|th) ?[-–—] ?(?=\d+(?:st|nd|rd|th)\b)", "{a:ordinal} to "),
    ("ranges", rf"(?P<a>{_N})\s?(?:°[CF]?|%)?\s?[-–—~]\s?(?=\d)(?<!\s-\s)", "{a:number} to "),
    ("signs", r"(?<![\w)])[-−](?=\d)", "minus "),
    ("signs", r"(?<![\w)])\+(?=\d)", "plus "),
    ("signs", rf"(?P<n>{_N}) ?%", "{n:number} percent"),
    ("signs", r"(?<=[a-z²]) x (?=\d)", " by "),
    ("units", rf"{_BEFORE_UNIT}° ?C\b", "{n:counted} {n:degree} Celsius"),
    ("units", rf"{_BEFORE_UNIT}° ?F\b", "{n:counted} {n:degree} Fahrenheit"),
    ("units", rf"(?P<n>{_N}) ?°(?= (?:angles?|turns?|views?|heat|rotation)\b)",
     "{n:counted} degree"),
    ("units", rf"(?P<n>{_N}) ?°", "{n:counted} {n:degree}"),
    ("units", rf"(?P<n>{_N}) ?‰", "{n:number} per mille"),
    ("units", rf"(?P<n>{_N})(?P<k>[ -]?)(?P<u>UNITS)(?P<p>[²³23]?)(?:/(?P<v>UNITS|s)(?P<q>[²³]?))?"
     r"(?![\w²³])(?P<dot>\.(?=\s+[a-z(]))?", "{*:measure}"),
    ("signs", r"(?<=[A-Za-z])/(?=[A-Za-z\d])|(?<=\d)/(?=[A-Za-z])", " slash "),
    ("fractions", r"(?<![\d/.])(?P<a>10/10|5/5)\b(?!/)", "{a:out_of}"),
    ("fractions", r"\b(?P<a>24/7|9/11|50/50|20/20|4/20)\b", "{a:cardinals}"),
    ("fractions", r"(?<![\d/.])(?P<b>\d+)/(?P<c>[2-9]|10|12|16|32|64|100)(?:rds?|ths?)?\b(?!/)",
     "{*:fraction}"),
    ("fractions", r"(?<![\d/.])(?P<a>\d+)/(?P<b>\d+)\b", "{a:cardinal} over {b:cardinal}"),
    ("signs", r"√ ?\(?(?P<x>\w+)", "the square root of {x}"),
    ("signs", r"(?<=\d) - (?=\d)", " minus "),
    ("signs", r"(?<=\w) ?[−] ?(?=\w)", " minus "),
    ("signs", r"(?<=\d) ?[*×] ?(?=\d)|(?<=\d) x (?=\d)", " times "),
    ("signs", r"(?<=\d)x(?=\d)", " by "),
    ("signs", rf"(?P<n>{_N})x\b", "{n:number} times"),
    ("signs", r"(?<=[\w)]) ?[*×] ?(?=\d)", " times "),
    ("signs", r"(?<=[\w)]) ?÷ ?(?=[\w(])", " divided by "),
    ("signs", r"(?<=\d) / (?=\d)", " divided by "),
    ("signs", r"(?<=[\w)]) \+ (?=[\w(])|(?<=\d)\+(?=\d)", " plus "),
    ("signs", r"(?<=\w)\+\+", " plus plus"),
    ("signs", r"(?<=\d)\+(?!\d)", " plus"),
    ("signs", r" ?± ?", " plus or minus "),
    ("signs", r" ?(?:≠|!=) ?", " is not equal to "),
    ("signs", r" ?(?:≤|<=) ?", " is less than or equal to "),
    ("signs", r" ?(?:≥|>=) ?", " is greater than or equal to "),
    ("signs", r" ?≈ ?", " approximately "),
    ("signs", r" ?={1,2} ?(?=[\w(-])(?<=[\w)=] )|(?<=[\w)])==?(?=[\w(-])", " equals "),
    ("signs", r"(?<=\w) < (?=\w)|(?<=\d)<(?=\d)", " is less than "),
    ("signs", r"(?<=\w) > (?=\w)|(?<=\d)>(?=\d)", " is greater than "),
    ("signs", r"∞", " infinity "),
    ("signs", r"(?P<x>[α-ωΑ-Ω])", " {x:greek} "),
    ("signs", r"(?<=\w)(?:²|\^2(?!\d))", " squared"),
    ("signs", r"(?<=\w)(?:³|\^3(?!\d))", " cubed"),
    ("signs", r"©", " copyright "),
    ("signs", r"[™®]", " "),
    ("roman", rf"\b(?P<w>{_KINGS}) {_LONE}(?P<x>{_ROMAN})(?!(?!'s\b)[\w'.-]*\w)",
     "{w} the {x:roman_ordinal}"),
    ("roman", rf"\b(?P<w>{_RULER} (?:{_KINGS})) I\b", "{w} the first"),
    ("roman", r"\b(?P<w>Saturn|Mark|Apollo|Mk\.?) V\b", "{w} five"),
    ("roman", r"\b(?:World War|(?P<w>WW)) ?(?P<x>I{1,3})\b(?!')", "World War {x:roman}"),
    ("roman", rf"\b(?P<x>{_ROMAN})(?:th|st|nd|rd)?(?= [Cc]entur(?:y|ies)\b)", "{x:roman_ordinal}"),
    ("roman", rf"\b(?P<w>{_COUNTED_PARTS}) I(?= (?!{_VERBS}\b)[a-z])", "{w} one"),
    ("roman", rf"\b(?P<w>(?i:chapter|act|part|volume|book|section|scene|phase|type|stage"
    rf"|vol\.)) {_LONE}(?P<x>{_ROMAN}|[ivx]+)\b",
     "{w} {x:roman}"),
    ("roman", r"\b(?P<x>I{2,3}|I[VX]|VI{1,3}|X(?:IX|IV|V?I{1,3})|XX(?:IX|IV|V?I{0,3})|XX{1,2}(?:IX"
    r"|IV|V?I{1,3})?"
     r"|XL[IVX]{1,4}|L(?:VI{1,3}|IV|IX|II)|M(?:CM|M)[XVILC]*[IVX])\b(?!(?!'s\b)['’.]\w)",
     "{x:roman}"),
)  # fmt: skip

NUMERIC = frozenset("phones dates ranges fractions units money".split())
"""Kinds whose rules all need a digit, and are passed over without one."""
