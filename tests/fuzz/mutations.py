"""Mutations that know the structure of what they spoil: JSON-like values, text, bytes, pickles, PNG files.

Everything is drawn from one random generator, so that a case is a function of its seed.
"""

import copy
import json
import pickle
import pickletools
import re
import zlib
from random import Random
from typing import Any

NUMBERS: list[Any] = [
    0, -1, 1, 2, 7, 255, 65536, 2**31 - 1, 2**31, 2**53 + 1, -(2**63), 2**64, 10**18, 10**40, -0.0, 0.5, 1e-320, 1e9, 1e38,
    1e300, -1e308, float("nan"), float("inf"), float("-inf"), True, False, None,
]  # fmt: skip
TEXTS = [
    "", " ", "\x00", "a\nb", "\u202e\u0301", "左边的人", "\ud83d", "\udcff", "nan", "-1", "1e5", "9" * 400, "x" * 300, "train",
    "../../x.png", "/dev/zero", "/dev/null", "/etc/passwd", "a/b", ".", "..", "con:", "%s%n", "{}", "${x}", "[1,2]", "~",
    "testAB", "test" + "A" * 60, "http://localhost/x", "a b " * 200, "x" * 70_000, "simrec", "1 2 3 4", "0,0,5,5", "\x1b[2J",
]  # fmt: skip
CONTAINERS: list[Any] = [
    [], {}, [[]], [None], {"": None}, [[[1, 2], [3]]], [[0, 0, 9, 0, 9, 9]], [1] * 5000, {"a": {"a": {}}},
    {"size": [3, 4], "counts": "12"}, {"size": [9000, 9000], "counts": [81_000_000]}, {"path": None, "bytes": None},
]  # fmt: skip
# Text that no value of Python's gives: it is put in place of a marker.
RAW = [
    "[" * 100_000, "[" * 300 + "]" * 300, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 5000, "1e99999", "-", "NaN", '"\\ud83d"',
    '"\\u00', "", '{"a":1,"a":[2]}', '"\x01\x02"', "01", "'x'", "tru", '{"id":1}' * 2, "[1,2" + ",3" * 20_000 + "]",
]  # fmt: skip
_MARK = "@RAW{}@"
FRAGMENTS = [
    "[", "]", "{", "}", ",", ":", '"', "'", "\\", "\n", "\r", "\t", "\x00", "&a ", "*a", "!!python/name:os.system ", "<<: ",
    "<", ">", "&#0;", "&lt;", "</", "]]>", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "[/EN#1/a b]", "[/EN#", "|", "? ", "- ",
    "${", "}", "${a.b}", "${oc.env:HOME}", "0x", ".inf", "1_0", "1:59:59", "%YAML 9.9\n", "---\n", "...\n", "\ufeff", "é", "💥",
]  # fmt: skip


def odd(rng: Random) -> Any:
    """A value that nobody expects where it is put."""
    kind = rng.choice((NUMBERS, NUMBERS, TEXTS, TEXTS, CONTAINERS, RAW))
    if kind is RAW:
        return _MARK.format(rng.randrange(len(RAW)))
    return copy.deepcopy(rng.choice(kind))


def change(value: Any, rng: Random, times: int | None = None) -> Any:
    """A copy of containers, numbers and texts with one to some places changed."""
    value = copy.deepcopy(value)
    for _ in range(times or 1 + min(int(rng.expovariate(0.8)), 12)):
        places = list(_places(value))
        if not places or rng.random() < 0.01:
            return odd(rng)
        holder, key = rng.choice(places)
        _change_at(holder, key, rng.choice(places), rng)
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _change_at(holder: Any, key: Any, other: tuple[Any, Any], rng: Random) -> None:
    old = holder[key]
    match rng.randrange(10):
        case 0 | 1 | 2:
            holder[key] = odd(rng)
        case 3:
            holder[key] = copy.deepcopy(other[0].get(other[1]) if isinstance(other[0], dict) else other[0][other[1]])
        case 4:
            del holder[key]
        case 5 if isinstance(holder, list):
            holder[key:key] = [copy.deepcopy(old)] * rng.choice((1, 1, 2, 40))
        case 5:
            holder[rng.choice((f"{key}_", "", "id", str(key).upper()))] = copy.deepcopy(old)
        case 6:
            holder[key] = rng.choice(([old], {"a": old}, [old, old], str(old)[:1000]))
        case 7 if isinstance(old, list | dict) and old:
            holder[key] = next(iter(old.values())) if isinstance(old, dict) else old[0]
        case _ if isinstance(old, int | float) and not isinstance(old, bool):
            holder[key] = rng.choice((-old, old + 1, old - 1, old * 10, old / 7, old + 0.5, str(old), old * 1e6))
        case _ if isinstance(old, str):
            holder[key] = change_text(old, rng)
        case _:
            holder[key] = odd(rng)


def to_json(value: Any, rng: Random) -> str:
    """JSON, or nearly: NaN, halves of pairs, and what the markers of :func:`odd` stand for."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7, indent=rng.choice((None, None, 1)), default=str)
    for number, raw in enumerate(RAW):
        text = text.replace(f'"{_MARK.format(number)}"', raw)
    return text


def change_text(text: str, rng: Random) -> str:
    """Words and signs of a text removed, repeated, exchanged or replaced."""
    parts = re.findall(r"\w+|\s+|[^\w\s]", text)
    for _ in range(1 + min(int(rng.expovariate(0.7)), 10)):
        if not parts:
            break
        place, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(7):
            case 0:
                del parts[place : place + rng.choice((1, 1, 3, 20))]
            case 1:
                parts[place:place] = parts[place : place + rng.choice((1, 3, 20))] * rng.choice((1, 2, 50))
            case 2:
                parts[place], parts[other] = parts[other], parts[place]
            case 3:
                parts[place] = str(rng.choice(NUMBERS))
            case 4:
                parts[place] = rng.choice(TEXTS)
            case _:
                parts[place:place] = [rng.choice(FRAGMENTS)] * rng.choice((1, 1, 1, 2, 500))
    return "".join(parts)


def change_bytes(data: bytes, rng: Random) -> bytes:
    """Bits turned, pieces cut out, repeated, exchanged or overwritten, the end cut off."""
    content = bytearray(data)
    for _ in range(1 + min(int(rng.expovariate(0.5)), 20)):
        if not content:
            break
        # The beginning holds the headers.
        place = rng.randrange(len(content) if rng.random() < 0.6 else min(len(content), 64))
        length = rng.choice((1, 1, 2, 4, 8, 64, 1000))
        match rng.randrange(8):
            case 0 | 1:
                content[place] ^= 1 << rng.randrange(8)
            case 2:
                content[place : place + length] = rng.randbytes(len(content[place : place + length]))
            case 3:
                value = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * min(length, 8)
                content[place : place + len(value)] = value
            case 4:
                del content[place : place + length]
            case 5:
                content[place:place] = content[place : place + length] * rng.choice((1, 1, 3))
            case 6:
                start = rng.randrange(len(content))
                content[place:place] = content[start : start + length]
            case 7 if rng.random() < 0.3:
                del content[place:]
    return bytes(content)


def encoded(text: str, rng: Random) -> bytes:
    """A text as bytes, once in a while in another encoding, or spoilt afterwards."""
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.03:
        data = text.encode(rng.choice(("utf-16", "latin-1", "utf-8-sig")), "replace")
    return change_bytes(data, rng) if rng.random() < 0.15 else data


def change_pickle(data: bytes, rng: Random) -> bytes:
    """A pickle of changed values in any protocol, or with opcodes moved, or with its bytes changed."""
    if rng.random() < 0.5:
        value = change(pickle.loads(data), rng)
        value = rng.choice((value, value, tuple(value) if isinstance(value, list) else {1, 2}, b"\xff\xfe"))
        try:
            data = pickle.dumps(value, rng.randrange(6))
        except UnicodeEncodeError:
            data = pickle.dumps(value, 1)
    if rng.random() < 0.4:
        starts = [place for _, _, place in pickletools.genops(data) if place is not None]
        parts = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
        for _ in range(rng.randrange(1, 6)):
            place, other = rng.randrange(len(parts)), rng.randrange(len(parts))
            match rng.randrange(4):
                case 0:
                    parts[place : place + 1] = []
                case 1:
                    parts.insert(other, parts[place])
                case 2:
                    parts[place], parts[other] = parts[other], parts[place]
                case 3:
                    parts.insert(place, rng.choice(OPCODES))
            if not parts:
                break
        data = b"".join(parts)
    return change_bytes(data, rng) if rng.random() < 0.3 else data


OPCODES = [op.code.encode("latin-1") for op in pickletools.opcodes]
OPCODES += [
    b"\x8e" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"\x8d" + b"\0" * 7 + b"\x40", b"r\xff\xff\xff\x7f",
    b"cos\nsystem\n", b"\x8b\xff\xff\xff\x7f", b"I" + b"9" * 5000 + b"\n", b"F1e999\n", b"V\\ud83d\n", b"(" * 5000,
]  # fmt: skip


def mend_png(data: bytes) -> bytes:
    """A PNG file with right lengths' check sums, so that changes of its content are looked at and not just refused."""
    content, place = bytearray(data), 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(content)
