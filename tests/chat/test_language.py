"""The language, construct by construct: every snippet as jinja2 renders it, or refused by both."""

import conversations
import reference
import snippets
from conftest import case

UNICODE = """{% for c in s %}{{ [c.upper(), c.lower(), c.title(), c.capitalize(), c.swapcase(), c | title, c.isalpha(), c.isalnum(), c.isdigit(),
c.isdecimal(), c.isnumeric(), c.isspace(), c.isupper(), c.islower(), ('a' ~ c ~ 'b').split(), ('a' ~ c ~ 'b').splitlines(), (c ~ 'a').strip(),
('a' ~ c ~ 'b') | wordcount, ('x' ~ c ~ 'y').title()] }}
{% endfor %}"""
# Parts of Unicode in which nothing is left to assign, so that the Python at hand may know a later version.
SETTLED = [(0x0, 0x370), (0x400, 0x530), (0x1E00, 0x2000), (0x2000, 0x2060), (0x2100, 0x2180), (0x4E00, 0x5000), (0xAC00, 0xAD00), (0xFF00, 0xFF60)]


def test_every_snippet_renders_the_same_bytes_or_both_raise(render):
    unequal, n, raised = [], 0, 0
    for source in snippets.templates():
        c = case(source, [conversations.U], extra=snippets.VARIABLES)
        theirs, why = reference.render(c)
        ours = render(c)
        n += 1
        raised += theirs is None
        if ours.get("text") != theirs:
            unequal.append(f"{source!r}: jinja2 {why or theirs!r}, nextd {ours}")
    assert n > 900 and 100 < raised < n / 2
    assert not unequal, f"{len(unequal)} of {n} differ:\n" + "\n".join(unequal[:20])


def test_characters_have_the_properties_that_python_gives_them(render):
    for first, last in SETTLED:
        for start in range(first, last, 512):
            c = case(UNICODE, extra={"s": "".join(map(chr, range(start, min(start + 512, last))))})
            theirs, why = reference.render(c)
            assert why is None
            assert render(c)["text"].split("\n") == theirs.split("\n")


def test_what_is_not_supported_is_refused_when_compiled_by_name_and_line(render):
    for source, word in snippets.REFUSED:
        reply = render(case("first line\n" + source))
        assert reply.get("code") in (7, 8), (source, reply)  # ERR_UNSUPPORTED, ERR_FORMAT
        assert "line 2" in reply["error"] and word in reply["error"], (source, reply)
