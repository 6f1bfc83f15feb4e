"""What abbreviations, units, currencies and capitals are called, for ``spoken_forms.py``."""

from __future__ import annotations

ABBREVIATIONS = {
    "assoc": "associate", "asst": "assistant", "atty": "attorney", "supt": "superintendent",
    "insp": "inspector", "pvt": "private", "cpl": "corporal", "adm": "admiral", "mme": "madame",
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
    "mt": "mount", "ft": "fort", "hwy": "highway", "apt": "apartment", "min": "minimum",
    "hr": "hours", "hrs": "hours", "max": "maximum", "temp": "temperature", "tel": "telephone",
    "mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "cf": "compare", "ca": "circa",
    "cmdr": "commander", "maj": "major", "et al": "and others", "ext": "extension",
    "avg": "average", "misc": "miscellaneous", "incl": "including", "excl": "excluding",
    "tbsp": "tablespoons", "tsp": "teaspoons", "sq": "square", "bros": "brothers",
    "univ": "university", "bldg": "building", "ln": "lane", "yr": "year", "yrs": "years",
    "wk": "week", "wks": "weeks", "viz": "namely", "sat": "saturday", "sun": "sunday",
    "rs": "rupees", "pkwy": "parkway", "govt": "government", "intl": "international",
    "sq. ft": "square feet", "sq. mi": "square miles", "sq. km": "square kilometers",
}  # fmt: skip
"""An abbreviation with its full stop -> what is said. gruut knows Ms."""

AMBIGUOUS = frozenset("max co jan mar wed mon sat sun".split())
"""Abbreviations that are words or names, too, where a sentence ends with them."""

CAPITALISED = frozenset("sat sun mon wed mar jan".split())
"""Abbreviations of names that are words in small letters."""

DOTLESS = frozenset("dr st prof mt ft capt lt sgt gov gen col rev".split())
"""Titles that are written without a stop, too, in front of a name: "Dr Smith"."""

BEFORE_NUMBERS = {
    "no": "number", "nos": "numbers", "p": "page", "pp": "pages", "fig": "figure",
    "figs": "figures", "vol": "volume", "ch": "chapter", "sec": "section", "eq": "equation",
    "art": "article", "ed": "edition", "ref": "reference", "par": "paragraph", "op": "opus",
    "ste": "suite", "rs": "rupees", "c": "circa",
}  # fmt: skip
"""The same where a number follows: "No. 5"."""

STREETS = {"st": "street", "dr": "drive"}
ROADS = {**STREETS, "ave": "avenue", "blvd": "boulevard", "rd": "road", "ln": "lane"}
"""The same behind a name: "Washington St.", "Oak Dr."."""

NEVER_LAST = frozenset(
    "prof gov rep sen gen col capt lt sgt rev hon pres approx vs v e.g i.e a.k.a mt ft mr mrs"
    " dr st cf"
    " ca cmdr maj assoc asst atty supt insp pvt cpl adm mme".split()
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
    "frame per second", "rpm": "revolution per minute", "Ω": "ohm", "kΩ": "kiloohm",
    "MΩ": "megaohm", "μm": "micrometer", "μg": "microgram", "mcg": "microgram", "μs": "microsecond",
    "ns": "nanosecond", "sec": "second", "secs": "second", "mins": "minute", "tbsp": "tablespoon",
    "tsp": "teaspoon", "bpm": "beat per minute", "dpi": "dot per inch", "ppm": "part per million",
    "mpg": "mile per gallon", "hPa": "hectopascal", "mbar": "millibar", "Wh": "watt hour",
    "GWh": "gigawatt hour", "MWh": "megawatt hour", "GW": "gigawatt", "mW": "milliwatt",
    "kV": "kilovolt", "mV": "millivolt", "kbps": "kilobit per second",
    "Kbps": "kilobit per second", "MiB": "mebibyte", "GiB": "gibibyte", "KiB": "kibibyte",
    "PB": "petabyte", "kJ": "kilojoule", "MJ": "megajoule", "kN": "kilonewton", "MPa": "megapascal",
    "Pa": "pascal", "yds": "yard", "dl": "deciliter", "dL": "deciliter", "cl": "centiliter",
    "MP": "megapixel", "kgs": "kilogram", "kms": "kilometer", "sq. ft": "square foot",
    "sq mi": "square mile", "sq m": "square meter", "cu ft": "cubic foot",
    "fl oz": "fluid ounce", "mol": "mole",
}  # fmt: skip
PLURALS = {"foot": "feet", "inch": "inches", "hertz": "hertz", "gigahertz": "gigahertz",
           "megahertz": "megahertz", "kilohertz": "kilohertz"}  # fmt: skip

PERIODS = {"hr": "hour", "mo": "month", "yr": "year", "wk": "week", "sec": "second",
           "min": "minute", "lb": "pound", "kg": "kilogram", "oz": "ounce", "gal": "gallon",
           "sq ft": "square foot"}  # fmt: skip
"""What stands behind a slash, where it has a shorter form: "$20/hr"."""

MONEY = {
    "$": ("dollar", "cent"), "US$": ("US dollar", "cent"), "CA$": ("Canadian dollar", "cent"),
    "AU$": ("Australian dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"),
    "¥": ("yen", ""), "USD": ("US dollar", "cent"), "EUR": ("euro", "cent"), "GBP": ("pound",
    "penny"),
    "JPY": ("yen", ""), "CHF": ("Swiss franc", ""), "CAD": ("Canadian dollar", "cent"),
    "AUD": ("Australian dollar", "cent"), "INR": ("rupee", ""), "CNY": ("yuan", ""),
    "NZ$": ("New Zealand dollar", "cent"), "HK$": ("Hong Kong dollar", "cent"),
    "MX$": ("Mexican peso", ""), "R$": ("real", ""), "A$": ("Australian dollar", "cent"),
    "C$": ("Canadian dollar", "cent"), "S$": ("Singapore dollar", "cent"), "₹": ("rupee", ""),
    "₩": ("won", ""), "₽": ("ruble", ""), "₺": ("lira", ""), "₫": ("dong", ""),
    "₱": ("peso", ""), "₦": ("naira", ""), "₴": ("hryvnia", ""), "₪": ("shekel", ""),
    "฿": ("baht", ""), "₿": ("bitcoin", ""),
}  # fmt: skip
SAME_PLURAL = {
    "yen": "yen",
    "yuan": "yuan",
    "penny": "pence",
    "won": "won",
    "baht": "baht",
    "real": "reais",
    "dong": "dong",
    "naira": "naira",
    "hryvnia": "hryvnia",
}
SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion",
          "t": "trillion"}  # fmt: skip

SPELT = frozenset(
    "us it tv pc id ai un eu uk who mit cd dvd am pm ip ir ad la dc va ma pa al id ms mr"
    " dr mt"
    " st led pr hr ed ti ci it".split()
)
"""Capitals that are letters although the lexicon has such a word."""

SHORT_WORDS = frozenset(
    "no the end yes one two six ten not you my we he she so go up on and but to me be do for"
    " all now"
    " new big why how out get let see say stop off run too never in if ok ha oh"
    " is or at by as an of are was had him his her its our any can may did old own put use way yet"
    " ask bad buy cut day die eat end far few fix got hey hot low man men nor odd pay red sad sit"
    " set top try wet win won bye six job joy key fun cry mad lot let pin gif rom ram sim".split()
)
"""Words of up to three letters that are words although alone in capitals."""

SIGNS_IN_ADDRESSES = {
    ".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", "?": "question mark",
    "=": "equals", "&": "and", "#": "hash", "+": "plus", "%": "percent", ":": "colon",
    "~": "tilde", "\\": "backslash",
}  # fmt: skip

SPOKEN_CAPITALS = {"COVID": "covid", "JPEG": "jay peg", "JSON": "jason", "YOLO": "yolo",
                   "FOMO": "foamo", "CAPTCHA": "captcha", "GUI": "gooey", "GIF": "gif"}  # fmt: skip
"""Capitals that are said as words and that the lexicon does not have."""

GREEK = dict(zip(
    "αβγδεζηθικλμνξοπρστυφχψω",
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma"
    " tau upsilon phi chi psi omega".split(), strict=True,
))  # fmt: skip
"""Greek letters that stand alone, as in formulas."""

SPELT_IN_ADDRESSES = frozenset(
    "www txt html csv mp io uk us eu tv ai js md pdf xml css exe gif svg sql ui ux api".split()
)
"""Parts of addresses that are letters although they could be read."""

CAMEL_NAMES = ("Mc", "Mac", "De", "Du", "Di", "La", "Le", "Fitz", "Van", "Von", "St", "Ben")
"""What a name with a capital inside begins with; others are cut at the capital."""

DAYS = {name[:2]: name for name in
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()}  # fmt: skip
"""Days by their first two letters."""
