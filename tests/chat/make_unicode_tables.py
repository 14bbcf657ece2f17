"""Writes server/chat/juni_tables.h from this Python's Unicode data: python3 tests/chat/make_unicode_tables.py > server/chat/juni_tables.h

Ranges are compressed as {first, last, step, delta}: every step-th code point from first to last maps to itself + delta.
Only the simple mappings are in the ranges; mappings to several code points are listed by themselves.
"""
import sys
import unicodedata

ALL = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


WORD_PUNCTUATION = "'.:\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a"


def mapping(of):
    return stepped([(c, ord(of(chr(c))) - c) for c in ALL if len(of(chr(c))) == 1 and of(chr(c)) != chr(c)])


def stepped(pairs):
    ranges = []
    for c, delta in pairs:
        if ranges:
            first, last, step, d = ranges[-1]
            if d == delta and (c - last == step or (first == last and c - last <= 2)):
                ranges[-1] = (first, c, c - last, d)
                continue
        ranges.append((c, c, 1, delta))
    return ranges


def spans(has):
    out = []
    for c in ALL:
        if has(chr(c)):
            if out and out[-1][1] == c - 1:
                out[-1][1] = c
            else:
                out.append([c, c])
    return out


def table(name, kind, comment, rows, width=147):
    print(f"/* {comment} */\nstatic const struct {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        cell = " {" + ", ".join(str(x) if -100000 < x < 0 else hex(x) for x in row) + "},"
        if len(line) + len(cell) > width:
            print(line)
            line = "   "
        line += cell
    print(line + "\n};\n")


def special(of):
    return [(c, *[ord(x) for x in of(chr(c))]) for c in ALL if len(of(chr(c))) > 1]


def ignorable(c):
    return unicodedata.category(c) in ("Mn", "Me", "Cf", "Lm", "Sk") or c in WORD_PUNCTUATION


print(f"""/* juni_tables.h: Unicode {unicodedata.unidata_version}, as Python sees it. Written by make_unicode_tables.py; for juni.c alone. */
#ifndef NEXTD_CHAT_JUNI_TABLES_H
#define NEXTD_CHAT_JUNI_TABLES_H

#include <stdint.h>

struct juni_map {{
    uint32_t first, last;
    uint8_t step;
    int32_t delta;
}};
struct juni_span {{
    uint32_t first, last;
}};
struct juni_special {{
    uint32_t from, to[3];
}};
""")
table("juni_upper_map", "juni_map", "to upper case", mapping(str.upper))
table("juni_lower_map", "juni_map", "to lower case", mapping(str.lower))
only_title = [c for c in ALL if len(chr(c).title()) == 1 and chr(c).title() != chr(c).upper()]
table("juni_title_map", "juni_map", "to title case, where it is one code point that is not the upper case",
      [(c, c, 1, ord(chr(c).title()) - c) for c in only_title])


def nested(rows):
    return [(r[0], r[1:]) for r in rows]


for name, of, comment in (("upper", str.upper, "to upper case, several code points"),
                          ("title", str.title, "to title case, several code points")):
    print(f"/* {comment} */\nstatic const struct juni_special juni_{name}_special[] = {{")
    line = "   "
    for c, to in nested(special(of)):
        cell = " {" + hex(c) + ", {" + ", ".join(hex(x) for x in to) + "}},"
        if len(line) + len(cell) > 147:
            print(line)
            line = "   "
        line += cell
    print(line + "\n};\n")
table("juni_uppercase", "juni_map", "str.isupper", stepped([(c, 0) for c in ALL if chr(c).isupper()]))
table("juni_lowercase", "juni_map", "str.islower", stepped([(c, 0) for c in ALL if chr(c).islower()]))
table("juni_titlecase", "juni_span", "str.istitle, and neither of the others", spans(lambda c: c.istitle() and not c.isupper()))
table("juni_alpha", "juni_span", "letters (str.isalpha)", spans(str.isalpha))
table("juni_number", "juni_span", "numbers (str.isnumeric)", spans(str.isnumeric))
table("juni_decimal", "juni_span", "decimal digits (str.isdecimal); each span is made of tens", spans(str.isdecimal))
table("juni_digit", "juni_span", "digits that are not decimal (str.isdigit)", spans(lambda c: c.isdigit() and not c.isdecimal()))
table("juni_unprintable", "juni_span", "what repr() escapes", spans(lambda c: not c.isprintable()))
table("juni_ignorable", "juni_span", "not part of a word's case: skipped around a final sigma", spans(ignorable))
print("#endif")
sys.stdout.flush()
