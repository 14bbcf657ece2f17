"""Small templates, one construct each, rendered by jinja2 and by nextd. VARIABLES are the request's; where a snippet must fail, both must."""

VARIABLES = {
    "s": "Hello, World",
    "empty": "",
    "blank": " \t padded text \n ",
    "uni": "Straße ÄÖÜ éà Ωσς ΟΔΥΣΣΕΥΣ жЖ 漢字 🎉 ǆ İ ﬁ",
    "html": "<a href=\"x\">'&'</a>",
    "lines": "one\ntwo\r\n\n  three\rfour\u2028five",
    "i": 7,
    "neg": -7,
    "f": 2.5,
    "big": 9007199254740993,
    "t": True,
    "n": None,
    "list": [3, 1, 2],
    "words": ["banana", "Apple", "cherry", "apple"],
    "mixed": [1, "a", None, 2.5, True, [1], {"k": "v"}],
    "dict": {"b": 1, "a": 2, "C": 3, "items": "shadow", "get": "x"},
    "nested": {"x": {"y": [{"z": "deep"}]}},
    "people": [
        {"name": "Bo", "age": 30, "tags": ["x"]},
        {"name": "al", "age": 25},
        {"name": "Cy", "age": 30, "boss": {"name": "Bo"}},
        {"name": "di", "age": None},
    ],
    "floats": [0.1, 1e16, 1e15, 123456789.125, 1e-4, 1e-5, 1.0, -0.0, 1e300, 5e-324, 2.5e-7, 100000.0, 3.0e22, 0.1234567890123456],
    "json": {"a": [1, 2.0, None, True, "é\n\"\\\u2028\x7f\x01"], "": {}, "z": [], "<&>'": "<&>'"},
    "num": "42",
    "content": "a <think> b </think> c",
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": []}, {"v": 3, "kids": [{"v": 4, "kids": []}]}]}, {"v": 5, "kids": []}],
}

EXPRESSIONS = r"""
s
nope
nope.x
nope['x']
nope ~ 'x'
nope + 'x'
nope == nope2
nope == none
nope is defined
n.x
n.x.y
n is none
i.x
s.nothing
s['nothing']
list.nothing
list['a']
list[0]
list[-1]
list[5]
list[5].x
list[true]
dict.b
dict['b']
dict.nope
dict.get('b')
dict.get('zz')
dict.get('zz', 'dflt')
dict.get('a', default=1)
dict.items() | list
dict.keys() | list
dict.values() | list
dict.items()
dict.keys()
dict.values()
dict | items | list
nope | items | list
s | items | list
nested.x.y[0].z
nested['x']['y'][0]['z']
nested.x.nope.z
nested.x.y.0.z
mixed
dict
json
tree
floats
floats | join(' ')
[none, true, 1, 1.5, 'a', "it's", 'q"', 'both\'"', '\n\t\\', 'é', '\x01\x7f\xad', '🎉']
(1,)
(1, 2)
()
{}
{1: 2, 'a': [], none: true, 1.0: 3}
{'a': 1, 'a': 2}
{[]: 1}
1 + 2 * 3 - 4
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
7 / 2
6 / 2
1 / 0
1 // 0
1 % 0
7.5 // 2
-7.5 // 2
7.5 % 2
-7.5 % 2
7.5 % -2
0.1 + 0.2
2 ** 10
2 ** -1
2 ** 0.5
2 ** 3 ** 2
-2 ** 2
+i
-f
-s
not s
not not s
1e3
1.5e-3
1_000
0x1F
0b101
0o17
1 < 2
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
none < 1
nope < 1
big == 9007199254740992.0
big
big + 1
1 in list
4 in list
4 not in list
'ell' in s
'' in s
1 in s
nope in s
s in nope
'b' in dict
'zz' not in dict
1 in n
[] in [[]]
[] in dict
'a' in {'a': 1}.keys()
1 in {'a': 1}.values()
('a', 1) in {'a': 1}.items()
i and s
0 and s
0 or s
'' or none or 'x'
s if i else n
s if not i
(s if not i) is defined
(s if not i).x
'a' 'b' 'c'
'a' ~ 1 ~ none ~ true ~ 1.5 ~ nope
'a' ~ list
'a' + 1
'a' * 3
3 * 'ab'
'a' * -1
'a' * 1.5
[1] * 2
(1,) + (2,)
[1] + [2]
[1] + (2,)
'%s and %s' % ('a', 1)
'%s' % 'a'
'%s' % [1, 2]
'%s %s' % 'a'
'%d' % 3.7
'%d' % 'a'
'%5d|%-5d|%05d|%+d|% d' % (42, 42, 42, 42, 42)
'%5s|%-5s|%.2s' % ('ab', 'ab', 'abcdef')
'%x %X %o %#x' % (255, 255, 8, 255)
'%f %.2f %e %g %G' % (1.5, 2.345, 12345.678, 0.0001, 1e20)
'%r' % 'a'
'%(a)s-%(b)d' % {'a': 'x', 'b': 2}
'%%'  % ()
'%c%c' % ('a', 66)
'%s' % ()
'a' % 1
'a' % {}
'a' % nope
'a' % []
'%i' % true
'%s' % none
'%s' % nope
'%08.3f' % 3.14159
'%*d' % (5, 42)
'{}'.format('a')
'{} {}'.format(1, 'b')
'{0} {1} {0}'.format('a', 'b')
'{a} {b}'.format(a=1, b=2)
'{a[x]} {b.c}'.format(a={'x': 1}, b={'c': 2})
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd')
'{:5}|{:05}|{:+}|{:,}|{:_}'.format(42, 42, 42, 1234567, 1234567)
'{:.2f}|{:8.3f}|{:e}|{:g}|{:%}'.format(3.14159, 2.5, 12345.678, 0.5, 0.25)
'{:x} {:X} {:o} {:b} {:#x} {:c}'.format(255, 255, 8, 5, 255, 65)
'{!r} {!s}'.format('a', 'b')
'{{}} {}'.format(1)
'{} {}'.format(1)
'{'.format()
'}'.format()
'{:d}'.format('a')
'{:s}'.format('a')
'{:.3}'.format('abcdef')
'{:>10}'.format(true)
'{}'.format(none)
'{}'.format([1, 'a'])
'{}'.format(nope)
'{} {0}'.format(1)
'{1}'.format(1, 2)
'{a}'.format(b=1)
'{:5}'.format(none)
'{:,.2f}'.format(1234567.891)
'{:010.2f}'.format(-3.5)
'{:<+6d}|'.format(5)
s[0]
s[-1]
s[100]
s[1:4]
s[:3]
s[-3:]
s[::-1]
s[::2]
s[10:2:-2]
s[5:1]
s[-100:100]
uni[3:8]
uni[::-1]
uni[-1]
list[1:]
list[::-1]
list[:-1]
list[-2:]
list[::0]
list[none:none]
list['a':]
n[1:]
nope[1:]
dict[1:]
messages[0].role
s.upper()
s.lower()
s.title()
s.capitalize()
s.swapcase()
uni.upper()
uni.lower()
uni.title()
uni.capitalize()
uni.swapcase()
'ß'.casefold()
uni | upper
uni | lower
uni | title
uni | capitalize
uni | length
"they're bill's don't-stop (ok) x" | title
"they're bill's don't-stop (ok) x".title()
blank.strip()
blank.lstrip()
blank.rstrip()
blank | trim
'xxaxx'.strip('x')
'xyaxy'.lstrip('yx')
'äöaöä'.strip('öä')
'xxaxx' | trim('x')
'\xa0a\u3000\u200b'.strip()
s.strip(1)
s.split()
s.split(',')
s.split(', ', 1)
blank.split()
'a,b,,c'.split(',')
'a,b,,c'.split(',', 2)
'a,b,,c'.rsplit(',', 1)
' a  b  c '.split(none, 1)
' a  b  c '.rsplit(none, 1)
' a  b  c '.split(maxsplit=1)
''.split()
''.split(',')
s.split('')
s.split(1)
content.split('</think>')[-1].lstrip()
content.split('<think>')
lines.splitlines()
lines.splitlines(true)
''.splitlines()
s.startswith('Hell')
s.startswith(('x', 'H'))
s.startswith('ello', 1)
s.endswith('ld')
s.endswith('lo', 0, 5)
s.endswith(['ld'])
s.replace('l', 'L')
s.replace('l', 'L', 2)
s.replace('', '-')
s.replace('l', '')
s.replace('x', 'y')
s.replace('l')
s.find('o')
s.find('o', 5)
s.find('zz')
s.rfind('o')
s.rfind('o', 0, 5)
s.index('W')
s.index('zz')
s.count('l')
s.count('')
uni.find('漢')
uni.rfind('Ω')
'abc'.find('', 2)
'abc'.find('', 4)
', '.join(words)
', '.join(list)
','.join('abc')
''.join([])
'-'.join(nope)
'12'.isdigit()
'1a'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'Ⅷ'.isnumeric()
'٣'.isdigit()
'abc'.isalpha()
'é漢'.isalpha()
'a1'.isalnum()
' \t'.isspace()
''.isspace()
'ABC'.isupper()
'AbC'.isupper()
'abc1'.islower()
'ß'.islower()
'1'.islower()
'a'.center(5)
'a'.center(4, '*')
'ab'.center(5, '*')
'a'.ljust(3, '.')
'a'.rjust(3, '.')
'42'.zfill(5)
'-42'.zfill(5)
'a b c'.partition(' ')
'a b c'.rpartition(' ')
'abc'.partition('x')
'abc'.rpartition('x')
'prefix-x'.removeprefix('prefix-')
'x.txt'.removesuffix('.txt')
s.nomethod()
s.upper(1)
list.append(4)
list.index(1)
list.index(9)
list.count(1)
list.copy()
dict.copy()
dict.pop('a')
dict.update({})
dict.update is defined
s.upper is defined
s.__class__
s.__class__.__mro__
dict.__class__
()|list
nope | list
'abc' | list
dict | list
n | list
5 | list
list | length
dict | length
n | length
nope | length
5 | length
s | count
list | first
list | last
[] | first
[] | last
[] | first is defined
'abc' | first
'abc' | last
'' | last
dict | first
dict | last
nope | first
nope | last
list | reverse | list
'abc' | reverse
dict | reverse | list
list | sort
list | sort(reverse=true)
words | sort
words | sort(case_sensitive=true)
words | sort(true)
mixed | sort
people | sort(attribute='age')
people[:3] | sort(attribute='age') | map(attribute='name') | list
people[:3] | sort(attribute='age,name') | map(attribute='name') | join(',')
people[:3] | sort(attribute='age', reverse=true) | map(attribute='name') | join(',')
list | min
list | max
[] | max
words | min
words | max(case_sensitive=true)
people[:3] | max(attribute='age')
mixed | max
list | sum
[] | sum
[0.1, 0.2] | sum
people[:3] | sum(attribute='age')
words | sum
[[1], [2]] | sum(start=[])
list | sum(start=10)
words | unique | list
words | unique(case_sensitive=true) | list
people | unique(attribute='age') | map(attribute='name') | list
[[1], [1]] | unique | list
words | join
words | join(', ')
list | join('-')
people | join(', ', attribute='name')
s | join('-')
n | join
nope | join
mixed | join('|')
words | map('upper') | list
words | map('replace', 'a', 'b') | list
words | map('nosuch') | list
words | map | list
people | map(attribute='name') | list
people | map(attribute='boss.name') | list
people | map(attribute='boss', default='none') | list
people | map(attribute='tags.0') | list
people | selectattr('age') | map(attribute='name') | list
people | selectattr('age', 'equalto', 30) | map(attribute='name') | list
people | selectattr('age', '==', 30) | list | length
people | selectattr('boss', 'defined') | list | length
people | rejectattr('boss', 'defined') | list | length
people | selectattr('age', 'none') | list | length
people | rejectattr('age') | list | length
people | selectattr('age', 'gt', 26) | list
people[:3] | selectattr('age', 'gt', 26) | list | length
people | selectattr('name', 'in', ['Bo', 'di']) | list | length
people | selectattr | list
list | select('odd') | list
list | select | list
[0, 1, '', 'a'] | select | list
[0, 1, '', 'a'] | reject | list
list | reject('even') | list
list | select('divisibleby', 3) | list
list | select('nosuch') | list
mixed | select('string') | list
nope | select | list
n | select | list
n | map('upper') | list
5 | select | list
list | select('odd') | length
(list | select('odd')) is sequence
(list | select('odd')) is iterable
list | map('string') | join
list | select('odd') | first
list | select('odd') | last
list | select('odd') | reverse
people[:3] | groupby('age') | list
people[:3] | groupby('age') | map(attribute='grouper') | list
(people[:3] | groupby('age'))[0].list | length
people[:3] | groupby('name') | map(attribute='0') | list
dict | dictsort
dict | dictsort(true)
{'b': 1, 'a': 2} | dictsort(by='value')
{'b': 1, 'a': 2} | dictsort(reverse=true)
{'b': 1, 'a': 2} | dictsort(by='x')
dict | dictsort(by='value')
list | dictsort
nope | dictsort
[1,2,3,4,5] | batch(2) | list
[1,2,3,4,5] | batch(2, 'x') | list
[1,2,3,4,5] | slice(2) | list
[1,2,3,4,5] | slice(3, 'x') | list
nope | default('d')
nope | default
nope | d('x') | upper
'' | default('d')
'' | default('d', true)
n | default('d')
n | default('d', boolean=true)
0 | default('d', true)
s | replace('l', 'L')
s | replace('l', 'L', 1)
i | replace('7', 'x')
nope | replace('a', 'b')
s | string
n | string
1.0 | string
nope | string
mixed | string
'42' | int
' 42 ' | int
'4_2' | int
'42.9' | int
'x' | int
'x' | int(5)
'x' | int(default=none)
'ff' | int(0, 16)
'0xff' | int(0, 16)
'0b11' | int(base=2)
'0x1f' | int(base=0)
'1e3' | int
3.9 | int
-3.9 | int
true | int
n | int
nope | int
list | int
'' | int
'-5' | int
'+5' | int
'- 5' | int
'1.5' | float
'x' | float
'x' | float(1.5)
3 | float
'inf' | float
'nan' | float
'1e5' | float
'.5' | float
'5.' | float
' 1_0.5 ' | float
n | float
2.5 | round
3.5 | round
2.675 | round(2)
2.5 | round | int
42.55 | round(1, 'floor')
42.55 | round(1, 'ceil')
42.55 | round(1)
7 | round
-2.5 | round
1.005 | round(2)
'x' | round
1 | round(method='x')
-5 | abs
-5.5 | abs
true | abs
'x' | abs
lines | indent
lines | indent(2)
lines | indent(2, true)
lines | indent(2, first=true, blank=true)
lines | indent('> ')
'a\n\nb' | indent(2, blank=true)
'a\nb\n' | indent(2)
'a\nb\n' | indent(2, blank=true)
'' | indent(2)
'' | indent(2, true)
i | indent
json | tojson | indent(2)
'a' | center(5)
'a b c d e f g' | truncate(7)
'a b c d e f g' | truncate(7, true)
'a b c d e f g' | truncate(7, leeway=0)
'a b c d e f g' | truncate(7, leeway=0, end='')
'abcdefgh' | truncate(5, false, '..', 0)
'short' | truncate(2)
list | truncate(2)
nope | truncate
(5 | items) is defined
5 | items | list
(5 | batch(2)) is defined
5 | unique is iterable
uni | wordcount
'a-b c_d 1' | wordcount
s | urlencode
uni | urlencode
'a/b?c=d&e' | urlencode
html | e
html | escape
html | escape | escape
html | forceescape
html | e | string
html | safe
(html | safe) + '<b>'
'<b>' + (html | safe)
(html | safe) ~ '<b>'
(html | e) + html
(html | safe) * 2
(html | safe)[0:2] + '<'
(html | safe).upper() + '<'
(html | safe).split('"')
(html | safe) | upper
(html | safe) | replace('<', '&lt;')
(html | safe) | trim
'%s' | safe % '<'
'{}' | safe | string
('<i>{}</i>' | safe).format('<')
('<' | safe).join(['<', '>'])
['<', '<' | safe] | join('&')
(html | safe) is escaped
html is escaped
(html | safe) == html
(html | e) is string
('<' | safe) in html
['<' | safe]
'%s %s' | format('a', 1)
'%(x)s' | format(x=1)
'%s' | format
'%d' | format('x')
json | tojson
json | tojson(indent=2)
json | tojson(indent=0)
json | tojson(indent='\t')
json | tojson(separators=(',', ':'))
json | tojson(sort_keys=true)
json | tojson(ensure_ascii=true)
uni | tojson
uni | tojson(ensure_ascii=true)
floats | tojson
mixed | tojson
(1, 2) | tojson
nope | tojson
(list | map('string')) | tojson
{1: 2, none: 3, true: 4, 1.5: 5} | tojson
{'a': nope} | tojson
{(1, 2): 3} | tojson
n | tojson
'a/b<>&\'"' | tojson
'inf' | float | tojson
'nan' | float | tojson
dict.items() | tojson
html | safe | tojson
[1, [2, [3, {}]], {'a': {'b': []}}] | tojson(indent=3)
[1, 2] | tojson(indent=1, separators=(', ', ' : '))
namespace(a=1) | tojson
s is string
i is string
i is number
t is number
f is number
s is number
i is integer
t is integer
f is float
t is boolean
1 is true
t is true
n is false
false is false
dict is mapping
list is mapping
list is sequence
s is sequence
dict is sequence
i is sequence
nope is sequence
n is sequence
list is iterable
i is iterable
nope is iterable
s is iterable
dict.items() is iterable
dict.items() is sequence
n is iterable
range is callable
s.upper is callable
nope is callable
i is callable
i is odd
i is even
i is divisibleby 7
i is divisibleby(3)
s is odd
neg is odd
'abc' is lower
'ABC' is upper
'1' is lower
i is lower
i is sameas 7
n is sameas none
s is in 'Hello, World!'
1 is in [1]
i is eq 7
i is equalto(7)
i is ne 7
i is gt 5
i is ge 7
i is lt 5
i is le 7
i is greaterthan 5
i is lessthan 5
i is not defined
i is not none and t
not i is none
'upper' is filter
'nosuch' is filter
'odd' is test
'nosuch' is test
nope is undefined
s is nosuchtest
s | nosuchfilter
1 is gt 'a'
range(3) | list
range(1, 4) | list
range(5, 0, -2) | list
range(3)
range(1, 9, 2)
range(0)
range(3)[1]
range(3) | length
range(3) is sequence
range(1000000)
range('a')
range(1, 5, 0)
range(2) == range(0, 2)
dict | length + 1
namespace(a=1).a
namespace({'a': 1}, b=2).b
namespace(a=1)
namespace(a=1).zz
namespace(a=1)['a']
namespace(a=1) is mapping
namespace(_a=1)
'a' in namespace(a=1)
raise_exception('boom')
raise_exception()
raise_exception(5)
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y')
strftime_now('%A, %B %d, %Y %H:%M:%S %p %I %j %U %W %w %y %a %e %F %T %D %R %V %G %u %C %n%t%% %-d %-m %x %X %c %Z|%z|')
strftime_now(1)
s()
i()
n()
nope()
list()
cycle
1.5 // 0
1 if
(1
[1
1 +
'abc
{{
1 2
s..x
s.
s |
s is
a b
1 = 2
"\u00e9\x41\101\n\q\'\""
'\ud800'
'a\
b'
1.
.5
1.e5
1e5
1E-2
00
01
0_1
1__0
0x
true and false or true
True == true
None is none
none
[1, 2, 3,]
(1, 2, )
{'a': 1,}
[*list]
s if s else
not
i is not
loop
caller
varargs
_('x')
gettext('x')
""".strip("\n").replace("\\\nb'", "\\\x00b'").split("\n")
EXPRESSIONS = [e.replace("\x00", "\n") for e in EXPRESSIONS]

TEMPLATES = [
    # loops
    "{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ x }};{% endfor %}",
    "{% for x in list %}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ x }};{% endfor %}",
    "{% for x in list %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in list %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}",
    "{% for x in list %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    "{% for x in list %}{{ loop.cycle() }}{% endfor %}",
    "{% for x in list %}{{ loop.nope }}{% endfor %}{{ loop }}",
    "{% for x in [] %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in nope %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in n %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in 5 %}{{ x }}{% endfor %}",
    "{% for x in list if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ loop.last }};{% else %}none{% endfor %}",
    "{% for x in list if x > 9 %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in list if loop.index > 1 %}{{ x }}{% endfor %}",
    "{% for k, v in dict.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in dict | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in nested.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for (a, b) in [(1, 2), (3, 4)] %}{{ a }}{{ b }};{% endfor %}",
    "{% for a, b in [[1, 2], 'xy'] %}{{ a }}{{ b }};{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}",
    "{% for a, b in [[1]] %}{{ a }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [5] %}{{ a }}{% endfor %}",
    "{% for a in 1, 2, 3 %}{{ a }}{% endfor %}",
    "{% for c in uni %}[{{ c }}]{% endfor %}",
    "{% for k in dict %}{{ k }}{% endfor %}",
    "{% for x in list %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in list %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}!",
    "{% break %}",
    "{% for x in list %}{% endfor %}{% continue %}",
    "{% for x in list %}{% for y in list %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for loop in list %}{{ loop }}{% endfor %}",
    "{% for x in list recursive %}{{ x }}{% endfor %}",
    "{% for x in tree recursive %}{{ loop.depth }}:{{ x.v }}{% if x.kids %}({{ loop(x.kids) }}){% endif %}{% endfor %}",
    "{% for x in list %}{{ loop(list) }}{% endfor %}",
    "{% for x in list | map('string') %}{{ loop.last }}{{ loop.length }}{{ x }}{% endfor %}",
    "{% set g = list | map('string') %}{% for x in g %}{{ x }}{% endfor %}|{% for x in g %}{{ x }}{% endfor %}|{{ g | list }}",
    "{% set g = list | select('odd') %}{% if g %}yes{% endif %}{{ g | first }}{{ g | first }}{{ g | first is defined }}",
    "{% for x in list %}{% set y = x %}{% endfor %}{{ y }}",
    "{% set y = 0 %}{% for x in list %}{{ y }}{% set y = y + x %}{{ y }},{% endfor %}{{ y }}",
    "{% set x = 9 %}{% for x in list %}{{ x }}{% endfor %}{{ x }}",
    "{% for x in list %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}",
    "{% for x in list %}{{ y is defined }}{% set y = 1 %}{{ y }}{% endfor %}",
    "{% for x in list %}{% for y in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in list %}{% set outer = loop %}{% for y in [1, 2] %}{{ outer.index }}{% endfor %}{% endfor %}",
    "{% for item in people if item.age %}{{ item.name }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% set ns = namespace(skip=false) %}{% for x in list if not ns.skip %}{{ x }}{% set ns.skip = true %}{% endfor %}",
    "{% for x in list %}{{ loop.index }}{{ loop.length }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}",
    "{% for i in range(3) %}{{ i }}{% endfor %}{{ i }}",
    "{% for x in dict.items() %}{{ x }}{{ x[0] }}{{ x.0 }}{% endfor %}",
    # if
    "{% if i > 5 %}a{% elif i > 3 %}b{% else %}c{% endif %}",
    "{% if i < 5 %}a{% elif i < 3 %}b{% elif i == 7 %}d{% else %}c{% endif %}",
    "{% if i < 5 %}a{% elif i < 3 %}b{% else %}c{% endif %}",
    "{% if nope %}a{% endif %}",
    "{% if nope.x %}a{% endif %}",
    "{% if list %}{% if dict %}x{% endif %}{% endif %}",
    "{% if i %}{% set z = 1 %}{% endif %}{{ z }}",
    "{% if not i %}{% set z = 1 %}{% endif %}{{ z }}",
    "{% if 1, 0 %}t{% endif %}",
    "{% if false %}{{ x | nosuch }}{% endif %}ok",
    "{% if false %}{{ x is nosuch }}{% endif %}ok",
    "{% if false %}{% for x in list %}{{ x | nosuch }}{% endfor %}{% endif %}ok",
    "{% if true %}{{ x | nosuch }}{% endif %}ok",
    "{{ 1 if true else x | nosuch }}",
    "{{ x | nosuch if false else 1 }}",
    "{{ x | nosuch }}",
    "{% if x | nosuch %}{% endif %}",
    "{% if false %}{% set y %}{{ x | nosuch }}{% endset %}{% endif %}ok",
    # set
    "{% set a = 1 %}{{ a }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set (a, b) = [1, 2] %}{{ a }}{{ b }}",
    "{% set a, b = 'xy' %}{{ a }}{{ b }}",
    "{% set a, b = 1 %}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set a = 1, %}{{ a }}",
    "{% set a %}x{{ i }}y{% endset %}{{ a }}{{ a | length }}",
    "{% set a | upper %}x{{ i }}y{% endset %}{{ a }}",
    "{% set a | replace('x', 'z') | upper %}x{{ i }}y{% endset %}{{ a }}",
    "{% set a %}{% set inner = 5 %}{{ inner }}{% endset %}{{ a }}{{ inner }}",
    "{% set ns = namespace(a=1, b='x') %}{% set ns.a = 2 %}{{ ns.a }}{{ ns.b }}{{ ns.c }}",
    "{% set ns = namespace() %}{% for x in list %}{% set ns.x = x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.a %}block{% endset %}{{ ns.a }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{% set ns = {} %}{% set ns.a = 1 %}",
    "{% set nope.a = 1 %}",
    "{% set ns = namespace(n=0) %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace(l=[]) %}{% for x in list %}{% set ns.l = ns.l + [x] %}{% endfor %}{{ ns.l }}",
    "{% set true = 1 %}",
    "{% set 'a' = 1 %}",
    "{% set a.b.c = 1 %}",
    "{% set a[0] = 1 %}",
    "{% set a %}",
    "{% set a = %}",
    "{% set loop = 3 %}{{ loop }}",
    "{% set s = s ~ '!' %}{{ s }}",
    # macros
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=1, a=2) }} {{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(x=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a=x) %}{{ a }}{% endmacro %}{% set x = 5 %}{{ m() }}",
    "{% macro m() %}{{ x }}{% endmacro %}{% set x = 5 %}{{ m() }}{% set x = 6 %}{{ m() }}",
    "{% macro m() %}{% set y = 1 %}{{ y }}{% endmacro %}{{ m() }}{{ y }}",
    "{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n }}*{{ fact(n - 1) }}{% endif %}{% endmacro %}{{ fact(5) }}",
    "{% macro m(a) %}[{{ a }}]{{ caller() }}{% endmacro %}{% call m(1) %}body {{ i }}{% endcall %}",
    "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}+{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "{% macro m(caller=3) %}{{ caller }}{% endmacro %}{{ m() }}{% call m() %}z{% endcall %}",
    "{% macro m(caller) %}{{ caller }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a, a) %}{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m | string }}{{ m.name }}",
    "{% macro m(a) %}  {{ a }}  {% endmacro %}[{{ m('x') | trim }}]{{ m('x') ~ '!' }}{{ m(1) is string }}",
    "{% macro m(x) %}{% for y in x %}{{ m(y) if y is sequence and y is not string else y }}{% endfor %}{% endmacro %}{{ m([1, [2, [3]], 4]) }}",
    "{% for x in list %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}",
    "{% macro m() %}{% break %}{% endmacro %}",
    "{% for x in list %}{% macro m() %}{{ loop.index }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*[1, 2], **{'c': 3}) }}{{ m(*'ab', c=1) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(**{'a': 1, 'b': 2}) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, **{'a': 1}) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(a=1, **{'a': 1}) }}",
    "{{ later() }}{% macro later() %}x{% endmacro %}",
    "{% macro m() %}{{ m2() }}{% endmacro %}{% macro m2() %}two{% endmacro %}{{ m() }}",
    "{% macro outer() %}{% macro inner() %}in{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}{{ inner is defined }}",
    "{% macro m() -%}\n  x\n{%- endmacro %}[{{ m() }}]",
    "{% macro m(x=[1, 2]) %}{{ x }}{% endmacro %}{{ m() }}{{ m(none) }}",
    "{% macro m(s) %}{{ s }}{% endmacro %}{{ m(s='in') }}{{ s }}",
    # filter blocks, with, call, generation, print
    "{% filter upper %}a{{ s }}b{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}abc{% endfilter %}",
    "{% filter upper %}{% set q = 1 %}{% endfilter %}{{ q }}",
    "{% filter nosuch %}x{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}",
    "{% generation %}{{ s }}{% set q = 1 %}{% endgeneration %}{{ q }}",
    "{% for x in list %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% print s %}{% print 1, 2 %}",
    "{{ 1, 2 }}",
    "{{ }}",
    "{% %}",
    "{% do list %}",
    "{% nosuch %}",
    "{% endif %}",
    "{% if x %}",
    "{% for x in y %}",
    "{% if x %}{% endfor %}",
    "{% if x %}{% else %}{% else %}{% endif %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    # white space
    "a\n{% if true %}\n  b\n{% endif %}\nc\n",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n\n",
    "a  {%- if true -%}  b  {%- endif -%}  c",
    "a\n\n  {{- s -}}  \n\nb",
    "a\n  {%+ if true %}\n  b\n  {%+ endif %}\nc",
    "a\n  {% if true +%}\n  b\n  {% endif +%}\nc",
    "  {# comment #}\n  x",
    "a {#- comment -#} b",
    "a\n  {# c #}  \nb",
    "a\n{#+ c +#}\nb",
    "{# {{ x }} {% y %} #}z",
    "{# unclosed",
    "{% raw %}{{ x }} {% y %}{% endraw %}",
    "a  {%- raw -%}  {{ x }}  {%- endraw -%}  b",
    "  {% raw %}\n  {{ x }}\n  {% endraw %}\n b",
    "{% raw %}unclosed",
    "x{{ '}}' }}y{{ \"%}\" }}",
    "{{ {'a': {'b': 1}}.a.b }}",
    "{{ {'a': {'b': 1}} }}",
    "{%- set x = 1 -%}  {{ x }}",
    "{%set x=1%}{{x}}{%if x%}y{%endif%}",
    "\n\n{{ s }}\n\n",
    "{{ s }}\n",
    "{{ s }}\r\nx\ry\r\n",
    "{% for x in list %}\n{{ x }}\n{% endfor %}\n",
    "{% for x in list -%}\n  {{ x }}\n{%- endfor %}",
    "\t {% if true %}x{% endif %} \t\n",
    "a {% if true %}\n\n\nb{% endif %}",
    "{{ s -}}\n\n   x",
    "{{- s }}",
    "x {{- -1 }}",
    "{{ 1 -}} {{- 2 }}",
    "{{ (1 -1) }}",
    "{% if true %}{# c #}\n{% endif %}\n|",
    "{ { } } {x} {%raw%}{%endraw%}",
    "a{% if true -%}   \n  \n b{% endif %}",
    "\xa0{%- if true %}x{% endif %}",
    "{{ '{{' }}{{ '{%' }}",
    "{{'a'}}{{\"b\"}}",
    "line1\n{{ nope.x }}",
    "a\n{%- if i -%}\n\n {% raw %} {{ {% endraw %} x {%- endif %} y",
    "{% if true %}\n{% endif %}{% if true %}\n{% endif %}",
    "   {{ s }}",
    "   {% set a = 1 %}   {{ a }}",
    "{% for x in list %}   {% endfor %}|",
    "x{#\n\n#}y",
]


# What jinja2 has and nextd refuses: (snippet, a word of the sentence).
REFUSED = [
    ("{{ s | striptags }}", "striptags"),
    ("{{ s | urlize }}", "urlize"),
    ("{{ s | wordwrap }}", "wordwrap"),
    ("{{ s | pprint }}", "pprint"),
    ("{{ list | random }}", "random"),
    ("{{ dict | xmlattr }}", "xmlattr"),
    ("{{ i | filesizeformat }}", "filesizeformat"),
    ("{{ s | attr('x') }}", "attr"),
    ("{{ lipsum() }}", "lipsum"),
    ("{{ cycler(1, 2) }}", "cycler"),
    ("{{ joiner() }}", "joiner"),
    ("{{ x[1, 2] }}", "index"),
    ("{% block a %}{% endblock %}", "block"),
    ("{% include 'x' %}", "include"),
    ("{% import 'x' as y %}", "import"),
    ("{% from 'x' import y %}", "from"),
    ("{% extends 'x' %}", "extends"),
    ("{% autoescape true %}{% endautoescape %}", "autoescape"),
    ("{{ '\\N{DASH}' }}", "character names"),
    ("{{ 99999999999999999999 }}", "64 bits"),
]


def templates():
    for e in EXPRESSIONS:
        yield "{{ " + e + " }}"
    yield from TEMPLATES
