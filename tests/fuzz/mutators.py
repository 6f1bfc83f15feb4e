"""Damage: bytes as disks and networks change them, and values as programs and people write them."""

from random import Random

NUMBERS = (0, 1, -1, -100, 2**31 - 1, 2**31, 2**63 - 1, -(2**63), 10**9)
FLOATS = (float("nan"), float("inf"), -float("inf"), 1e30, -1.0, 0.0)
TEXTS = ("", " ", "\0", "../x", "/etc/passwd", "\u2028", "ä" * 300, "none", "nan", "1e9")
VALUES = (None, True, False, [], {}, [[]], [None], *NUMBERS, *FLOATS, *TEXTS)


def damaged(data, random):
    """Bytes with one to three faults: cut, flipped, zeroed, repeated, inserted, swapped."""
    data = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data) + 1)
        length = random.choice((1, 1, 2, 4, 16, 256))
        kind = random.randrange(7)
        if kind == 0:
            del data[random.choice((at, min(at, 20), len(data) - min(len(data), length))) :]
        elif kind == 1 and data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        elif kind == 2:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at:at] = random.randbytes(length)
        elif kind == 5:
            del data[at : at + length]
        else:
            data[at : at + length] = b"\xff" * len(data[at : at + length])
    return bytes(data)


def changed_text(text, random):
    """A text with words exchanged for odd ones, lines repeated or left out, or damaged bytes."""
    if random.random() < 0.3:
        return damaged(text.encode(), random)
    lines = text.split("\n")
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(lines))
        kind = random.randrange(4)
        if kind == 0:
            words = lines[at].split(" ")
            words[random.randrange(len(words))] = str(random.choice(VALUES))
            lines[at] = " ".join(words)
        elif kind == 1:
            lines.insert(at, lines[random.randrange(len(lines))])
        elif kind == 2 and len(lines) > 1:
            del lines[at]
        else:
            lines[at] = lines[at].replace(*random.choice(SIGNS))
    return "\n".join(lines).encode()


SIGNS = ((": ", ":"), (":", ": !!int "), ("\t", " "), ("{", "["), ("}", ""), ("a", "\0"), ("|", ""))


def changed_value(value, random):
    """A nested value with one leaf or branch exchanged for something else, or left out."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(sorted(value, key=str))
        if random.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed_value(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.7:
        at = random.randrange(len(value))
        return [*value[:at], changed_value(value[at], random), *value[at + 1 :]]
    return random.choice(VALUES)


def seeded(name, number):
    """The generator of one case, the same on every machine."""
    return Random(f"{name} {number}")
