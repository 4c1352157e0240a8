"""Writes crates/llama-burn/tests/fixtures/jinja.json: small templates, and what transformers 5.23.0 renders of them.

usage: jinja_cases.py. Each case has the template and its text, or the error of Jinja. `VARIABLES` are what the templates see.
"""
import json, os
from transformers.utils.chat_template_utils import _compile_jinja_template

here = os.path.dirname(os.path.abspath(__file__))
out = os.path.join(here, "..", "..", "crates", "llama-burn", "tests", "fixtures", "jinja.json")
ODD = "a\u00a0b\u00ad\u200b\u2028\u0085\u007f\u0000\x1b\U000e0001\ufeff\ue000\u0378\u00e9\U0001f980\u3000\\'\"\t"
VARIABLES = {"odd": ODD, "text": "the quick-brown fox's  3rd JUMP\n over 'it'", "list": [1, "a", None, 2.5, True], "map": {"b": 1, "a": [1, 2]}, "long": "word " * 30,
             "html": "<a href=\"x\">it's & so</a>", "number": -3, "real": 2.5, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
EXPRESSIONS = """
[odd]
{'k': odd}
odd
['it\\'s', "say \\"it's\\""]
(1, 2)
(1,)
()
[(1, 'a'), (2,)]
map.items() | list
map | dictsort
map | items | list
'a.b'.partition('.')
'a.b.c'.rpartition('.')
'ab'.partition('x')
'ab'.rpartition('x')
html | e
html | escape
html | e | length
(html | e) ~ '<'
'<' ~ (html | e)
html | safe
[html | e]
html | forceescape
[1, '<'] | e
none | e
5 | e
text.title()
text | title
text.capitalize()
text | capitalize
text.swapcase()
'xxabcxx'.strip('x')
'xyabyx'.strip('xy')
'xyabyx'.lstrip('xy')
'xyabyx'.rstrip('xy')
'  ab '.strip(none)
'\\x1c a \\u3000'.strip() | length
'  a '.lstrip() ~ '|'
'%s is %d' % ('a', 3)
'%s' % 'x'
'%s' % none
'%s' % [1, 'a']
'%s' % map
'%d' | format(3.7)
'%d' | format(true)
'%s and %r' | format('a', 'b')
'%5.2f|%-5d|%05d|%+d' | format(2.345, 3, 42, 7)
'%x %X %o %e %g' | format(255, 255, 8, 12345.678, 0.0001)
'%%' | format
'100%% of %s' % 'x'
'%(a)s-%(b)d' % {'a': 'x', 'b': 2}
'%(a)s' | format(a='x')
'%c' | format('x')
'%10s|%-10s|%.2s' % ('abc', 'abc', 'abc')
'%s %s' % (1, 2.0)
'%d' % 'a'
'%s' % (1, 2)
'%i' % 3
7 % 3
-7 % 3
-7 // 2
7 // -2
7.5 // 2
-7.5 % 2
2 ** 10
2 ** -1
1 / 2
4 / 2
'12' | int
'12.7' | int
' 42 ' | int
'0x1f' | int
'0x1f' | int(base=16)
'1f' | int(0, 16)
'x' | int
'x' | int(default=7)
'x' | int(5)
none | int
'' | int
3.9 | int
-3.9 | int
true | int
'1e3' | int
'1_000' | int
'inf' | int(1)
[] | int
'1.5' | float
'x' | float
'x' | float(1.5)
none | float
'1e3' | float
3 | float
'a,b,c'.rsplit(',', 1)
'a,b,c'.rsplit(',')
'  a  b c '.rsplit()
'  a  b c '.rsplit(none, 1)
'a,b,c'.split(',', 1)
'a,b,c'.split(',', maxsplit=1)
'  a  b c '.split()
'  a  b c '.split(none, 1)
' a '.split(' ')
'a,b,c'.rsplit(sep=',', maxsplit=1)
'a\\nb\\r\\nc\\n'.splitlines()
'a\\nb\\n'.splitlines(true)
'unhappy'.removeprefix('un')
'unhappy'.removeprefix('x')
'file.txt'.removesuffix('.txt')
'file.txt'.removesuffix('')
'ab'.ljust(5) ~ '|'
'ab'.ljust(5, '.') ~ '|'
'ab'.rjust(5, '.')
'abc'.rjust(2)
'ab'.center(5, '*')
'ab'.center(6, '*')
'abc'.center(6, '*')
'abc'.center(7)
'42'.zfill(5)
'-42'.zfill(5)
'+4'.zfill(2)
'abc'.zfill(2)
'a'.center(4) ~ '|'
'a' | center(4) ~ '|'
text | center
'abc' | center(8) ~ '|'
long | truncate(20)
long | truncate(20, true)
long | truncate(20, true, '..')
long | truncate(20, false, '..', 0)
'short' | truncate(9)
'a long sentence here' | truncate(16)
'a long sentence here' | truncate(10, leeway=0)
'a long sentence here' | truncate(length=10, killwords=true, end='', leeway=0)
long | truncate
text | wordcount
'' | wordcount
"it's a-b c_d 3" | wordcount
html | urlencode
'a/b c?d=\\u00e9~-_.' | urlencode
{'a b': 'c&d', 'e': 1} | urlencode
[['a', 1], ['b', 'x y']] | urlencode
5 | urlencode
long | wordwrap(20)
'aaaaaaaaaa bb' | wordwrap(4)
'aaaaaaaaaa bb' | wordwrap(4, false)
'aa-bb-cc dd' | wordwrap(4)
'aa-bb-cc dd' | wordwrap(4, break_on_hyphens=false)
'one two three\\nfour five' | wordwrap(8)
'one two three four' | wordwrap(8, true, '|')
'one  two   three' | wordwrap(5)
'\\n\\na b' | wordwrap(3)
'' | wordwrap(3)
'a\\nb' | indent
'a\\nb\\n\\nc' | indent(2, true)
'a\\n\\nb' | indent(2, blank=true)
'a\\nb' | indent('> ')
[3, 1, 2] | sort(reverse=true)
['b', 'A', 'c'] | sort
['b', 'A', 'c'] | sort(case_sensitive=true)
[1, 2, 3] | sum
[1, 2, 3, 4, 5] | batch(2) | list
[1, 2, 3, 4, 5] | batch(2, 'x') | list
[1, 2, 3, 4, 5] | slice(2) | list
[1, 2, 1] | unique | list
['a', 'A'] | unique | list
messages | map(attribute='role') | join(', ')
messages | selectattr('role', 'equalto', 'user') | list
messages | selectattr('role', '==', 'user') | map(attribute='content') | list
messages | rejectattr('role', 'in', ['user']) | list
list | map('string') | list
list | select('string') | list
list | reject('none') | list
list | join('-')
'abc' | list
'abc' | reverse
[1, 2] | reverse | list
'abc'[::-1]
[1, 2, 3][-2:]
'abc' | first
[] | first
'abc' | last
map | length
map.keys() | list
map.values() | list
map.get('x', 5)
map.get('x')
map | tojson
map | tojson(indent=2)
odd | tojson
odd | tojson(ensure_ascii=true)
(1, 2) | tojson
'a b' | replace(' ', '_')
'aaa' | replace('a', 'b', 2)
'aaa'.replace('a', 'b', 2)
'aaa'.replace('', '-')
2.5 | round
3.5 | round
2.567 | round(2)
2.1 | round(method='ceil')
2.19 | round(1, 'floor')
2 | round
-3 | abs
1 if true else 2
'x' if false
number is number
text is string
map is mapping
list is sequence
'a' is lower
'A' is upper
3 is divisibleby(3)
2 is even
undefinedthing is defined
undefinedthing
undefinedthing.x
number.x is defined
'a' in 'abc'
'a' in map
1 in list
'a' not in ['b']
'ab' * 3
[1] * 2
[1] + [2]
'a' ~ 1 ~ none
'a' < 'b'
1 == 1.0
1 == true
'abc'.upper().lower()
'abc'.find('c')
'abc'.index('c')
'abc'.rfind('x')
'abcabc'.rindex('b')
'abc'.count('a')
'a1'.isalnum()
'abc'.isalpha()
'1'.isdigit()
'1'.isdecimal()
'\\u00b2'.isdigit()
'\\u00b2'.isdecimal()
'\\uff11\\u0967'.isdecimal()
'\\u0bf0'.isdecimal()
'x\\u0967'.isnumeric()
'a b'.isidentifier()
'_a1'.isidentifier()
'%*d|%.*f' % (5, 3, 1, 2.25)
'%s%%' % 5
'%r' % 'it'
'%5s' % none
'%-5s|' % true
'%.3s' % 'abcdef'
'% d' % 3
'%#x' % 255
'%s' % {'a': 1}
'%(a)s' % {'a': none}
'%s' % []
'%s, %s' % ('a', ['b'])
'[%s]' % (messages | map(attribute='role') | join('/'))
('%s' % 1) ~ 'x'
'%s' % 1 ~ 'x'
'a' ~ '%02d' % 7 ~ 'b'
'Ab Cd'.istitle()
'ab'.isprintable()
'a\\tb'.expandtabs(4)
'\\u00df'.casefold()
'abc'.startswith('a')
'abc'.startswith(('x', 'ab'))
'abc'.endswith('bc')
'{} {}'.format(1, 'a')
'{0}{x}'.format(1, x=2)
'{:>5}|{:.2f}'.format('a', 2.345)
', '.join(['a', 'b'])
','.join(list | map('string'))
range(3) | list
range(1, 7, 2) | list
range(3, 0, -1) | list
dict(a=1, b='x')
namespace(a=1).a
[1, 2].index(2)
[1, 2].count(1)
list.append(1)
map.update({'a': 1})
[].pop()
map.items() | map('first') | list
1.0
1e20
1e-7
0.1 + 0.2
10 // 3
1 / 3
12345678901234567890
true and 'x'
none or 'y'
not none
[none, true, false]
'a' 'b'
{'a': (1, 2)}
{1: 'a', none: 2, true: 3}
'\\u00e9' | upper
'\\u00df' | upper
'x' | default('y')
undefinedthing | default('y')
'' | default('y', true)
number | string
real | string
[1.0, 1] | string
text | lower
text | trim
'xxaxx' | trim('x')
text | length
[[1, 2], [3]] | sum(start=[])
[1, 2, 3] | min
['b', 'A'] | max
"a\\u2028b"
loop is defined
""".strip().split("\n")
BLOCKS = [
    "{% set c = cycler('a', 'b') %}{% for m in range(3) %}{{ c.next() }}{{ c.current }}{% endfor %}{{ c.reset() }}{{ c.next() }}",
    "{% set j = joiner('; ') %}{% for m in messages %}{{ j() }}{{ m.role }}{% endfor %}",
    "{% set j = joiner() %}{{ j() }}a{{ j() }}b",
    "{% for m in messages %}{{ loop.cycle('x', 'y') }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role }}{{ loop.changed(m.role) }}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace({'x': 1}, y=2) %}{{ ns.x }}{{ ns.y }}",
    "{% set ns = namespace(a=[]) %}{% for m in messages %}{% set ns.a = ns.a + [m.role] %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace(a=1) %}{{ ns['a'] is defined }}",
    "{% set ns = namespace(last=none) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.last }}",
    "{% macro f(a, b=2, *args, **kwargs) %}{{ a }}{{ b }}{{ args }}{{ kwargs }}{% endmacro %}{{ f(1) }}{{ f(1, 3) }}",
    "{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, b=3) }}",
    "{% set a, b = (1, 2) %}{{ a }}{{ b }}",
    "{% for a, b in map.items() %}{{ a }}{{ b }}{% endfor %}",
    "{% for a in list if a %}{{ a }}{% else %}none{% endfor %}",
    "{% for a in [] %}{{ a }}{% else %}none{% endfor %}",
    "{% for a in range(5) %}{% if a == 1 %}{% continue %}{% endif %}{% if a == 3 %}{% break %}{% endif %}{{ a }}{% endfor %}",
    "{% set x %}a<b{% endset %}{{ x }}{{ x | e }}",
    "{% filter upper %}abc{% endfilter %}",
    "{% filter e %}a<b{% endfilter %}",
    "{% with a = 1 %}{{ a }}{% endwith %}",
    "{% if messages[5] is defined %}x{% else %}y{% endif %}",
    "{% call(x) f() %}{% endcall %}",
    "{% do list.append(1) %}",
    "{{ raise_exception('no') }}",
    "{% raw %}{{ x }}{% endraw %}",
    "{# a #}b",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n",
    "{%- if true -%} a {%- endif -%} b",
    "{{ messages | unknown_filter }}",
    "{{ unknown_function(1) }}",
    "{{ 'a'.unknown_method() }}",
    "{{ 'a' is unknown_test }}",
    "{{ messages[0].role.foo.bar }}",
    "{{ messages[0]['content'] }}{{ messages[-1].content }}",
    "{% autoescape true %}{{ html }}{% endautoescape %}",
    "{{ '%(a)s' % {'a': 1}}} {{ '}}' ~ '%s' % '%}' }}",
    "{% if '%d' % 3 == '3' %}{{ {'a': {'b': 2}}}}{% endif %}",
    "{% for m in messages %}{{ '%d: %s' % (loop.index, m['content']) }}{% endfor %}",
    "{% include 'x' %}",
    "{% import 'x' as x %}",
    "{% block a %}x{% endblock %}",
    "{% set d = dict(a=1) %}{{ d.a }}{{ d }}",
    "{{ {'a': 1}.items() | list }}{{ {'a': 1} | items | list }}",
]
cases = []
for template in [f"{{{{ {expression} }}}}" for expression in EXPRESSIONS] + BLOCKS:
    try:
        text = _compile_jinja_template(template).render(**json.loads(json.dumps(VARIABLES)))
        cases.append({"template": template, "text": text})
    except Exception as error:
        cases.append({"template": template, "error": f"{type(error).__name__}: {error}"})
lines = ",\n".join(json.dumps(case) for case in cases)
open(out, "w").write(f'{{"variables": {json.dumps(VARIABLES)},\n"cases": [\n{lines}\n]}}\n')
for case in cases:
    if "error" in case:
        print(case["template"], "->", case["error"])
print(len(cases))
