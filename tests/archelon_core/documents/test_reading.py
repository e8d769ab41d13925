"""Reading YAML and JSON: values, positions of errors, and hostile texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_core.documents.problems import DocumentError
from archelon_core.documents.reading import read_file, read_text
from archelon_core.documents.tree import DocumentLimits, locate, plain, walk
from bundles.templates import to_text

#: JSON values that are accepted: no control characters in keys, 64-bit numbers.
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
keys = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Cf")), max_size=30)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | texts,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=4),
    max_leaves=20,
)


def read(text: str, file: str = "m.yaml") -> list[object]:
    return [plain(document) for document in read_text(text, file=file)]


def refused(text: str, file: str = "m.yaml", limits: DocumentLimits | None = None) -> str:
    with pytest.raises(DocumentError) as error:
        read_text(text, file=file, limits=limits)
    return str(error.value)


def test_yaml_is_read_in_the_core_schema_of_1_2() -> None:
    text = """
    words: [yes, No, on, OFF, y, true, False, null, ~, "true", !!str 5]
    numbers: [12, -3, +4, 0x1f, 0o17, 1.5, .5, 1e3, 0]
    texts: [2018-08-31, 12:30, 1_000, 1.2.3, 0x, "012", '', -, +, 12e]
    empty:
    """
    assert read(text) == [
        {
            "words": ["yes", "No", "on", "OFF", "y", True, False, None, None, "true", "5"],
            "numbers": [12, -3, 4, 31, 15, 1.5, 0.5, 1000.0, 0],
            "texts": ["2018-08-31", "12:30", "1_000", "1.2.3", "0x", "012", "", "-", "+", "12e"],
            "empty": None,
        }
    ]


def test_in_the_failsafe_schema_every_scalar_is_text() -> None:
    text = "[yes, 0644, 1e3, null, ~, .inf, 2018-08-31, <<, 'a', !!str 5]\n"
    (document,) = read_text(text, file="m.yaml", failsafe=True)
    assert plain(document) == ["yes", "0644", "1e3", "null", "~", ".inf", "2018-08-31", "<<", "a", "5"]


def test_accepted_tags_are_kept_on_their_nodes() -> None:
    text = "a: !Ref x\nb: !Map {c: 1}\nd: !List [2]\ne: 3"
    (document,) = read_text(text, file="m.yaml", tags=frozenset({"!Ref", "!Map", "!List"}))
    assert [(path, node.tag) for path, node in walk(document) if node.tag] == [
        (("a",), "!Ref"),
        (("b",), "!Map"),
        (("d",), "!List"),
    ]
    with pytest.raises(DocumentError, match=r"m\.yaml:2:4: .*the tag !Map makes an object; .*no tags but !Ref"):
        read_text(text, file="m.yaml", tags=frozenset({"!Ref"}))


def test_a_key_is_its_text_as_written() -> None:
    assert read("80: a\ntrue: b\n1.50: c\n") == [{"80": "a", "true": "b", "1.50": "c"}]


def test_aliases_are_expanded() -> None:
    assert read("a: &x {b: [1]}\nc: *x\nd: &k key\n*k : 2\n") == [
        {"a": {"b": [1]}, "c": {"b": [1]}, "d": "key", "key": 2}
    ]


def test_several_documents() -> None:
    assert read("a\n---\n---\nb: 1\n...\n") == ["a", None, {"b": 1}]
    assert read('{"a": 1} [2]\n"x"', "m.json") == [{"a": 1}, [2], "x"]
    assert read("") == []
    assert read(" ", "m.json") == []


@given(st.lists(values, max_size=3), st.sampled_from([None, 1, "\t"]))
def test_json_reads_as_python_reads_it(documents: list[object], indent: int | str | None) -> None:
    text = "\n".join(json.dumps(document, indent=indent) for document in documents)
    assert read(text, "m.json") == documents


@given(st.lists(values, max_size=3))
def test_written_documents_round_trip(documents: list[object]) -> None:
    assert read(to_text(documents)) == documents


@given(st.text(max_size=60) | st.text("{}[]:,\"' \n\t-&*!|>%#?a1", max_size=60), st.sampled_from(["m.yaml", "m.json"]))
def test_any_text_is_parsed_or_rejected_with_a_position(text: str, file: str) -> None:
    try:
        documents = read_text(text, file=file)
    except DocumentError as error:
        for problem in error.problems:
            assert problem.file == file
            assert 1 <= problem.line <= len(text.splitlines()) + 1
            assert problem.remedy
    else:
        json.dumps([plain(document) for document in documents], allow_nan=False).encode()


@pytest.mark.parametrize("file", ["m.yaml", "m.json"])
def test_every_node_has_its_position(file: str) -> None:
    text = '{"a": [1,\n  {"b": "c"}],\n "d": true}'
    (document,) = read_text(text, file=file)
    places = {path: tuple(node.mark) for path, node in walk(document)}
    assert places == {
        (): (1, 1),
        ("a",): (1, 7),
        ("a", 0): (1, 8),
        ("a", 1): (2, 3),
        ("a", 1, "b"): (2, 9),
        ("d",): (3, 7),
    }
    assert locate(document, ("a", 1, "b"), key=True) == (2, 4)
    assert locate(document, ("a", 1, "nothing", 3)) == (2, 3)


def test_a_duplicate_key_is_reported_with_both_lines_and_all_problems_at_once() -> None:
    lines = refused("a: 1\nb:\n  c: 0644\na: 2\nd: .nan\n<<: {e: 1}\n").splitlines()
    assert lines[0] == (
        "m.yaml:3:6: $.b.c: a number with a leading zero is octal to some readers and decimal to others; "
        'write 0o644 for octal, 644 for decimal, or "0644" for text'
    )
    assert lines[1] == "m.yaml:4:1: $.a: the key is given twice, first on line 1; keep one of them"
    assert lines[2].startswith("m.yaml:5:4: $.d: the number is not finite")
    assert lines[3].startswith("m.yaml:6:1: merge keys are not part of YAML 1.2; write the keys out")
    assert "m.json:2:3: $.a: the key is given twice, first on line 1" in refused('{"a": 1,\n  "a": 2}', "m.json")


def nested_aliases(width: int, levels: int) -> str:
    lines = (f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels))
    return "\n".join(["a0: &a0 lol", *lines])


HOSTILE = {
    "billion laughs": (nested_aliases(10, 12), "values, aliases expanded"),
    "deep by aliases": (
        "a: &a [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n"
        "b: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[*a]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        "nested deeper than 64 levels",
    ),
    "recursion": ("a: &a [*a]", "undefined alias: *a has no earlier definition"),
    "brackets": ("[" * 100_000, "nested deeper than 64 levels"),
    "braces": ("{a: " * 100_000, "nested deeper than 64 levels"),
    "dashes": ("- " * 100_000, "nested deeper than 64 levels"),
    "questions": ("? " * 100_000, "a key is a list or a mapping"),
    "many values": ("[" + "a," * 200_000 + "]", "more than 100000 values"),
    "many documents": ("---\n" * 1000, "more than 256 documents"),
    "huge integer": ("a: " + "9" * 500_000, "needs more than 64 bits"),
    "65 bits": ("a: 18446744073709551616", "needs more than 64 bits"),
    "huge hexadecimal": ("a: 0x" + "f" * 100_000, "needs more than 64 bits"),
    "huge float": ("a: 1e999", "not finite"),
    "tabs": ("a:\n\tb: 1", "indent with spaces, not with tabs"),
    "object": ("!!python/object/apply:os.system [id]", "the tag !!python/object/apply:os.system makes an object"),
    "scalar object": ("a: !!python/name:os.system x", "makes an object"),
    "own tag": ("a: !Ref x", "makes an object"),
    "half of a surrogate pair": ("a:\n- \ud800", "m.yaml:2:3: half of a surrogate pair"),
    "wrong tag": ("a: !!int x", "does not fit the value"),
    "tag directives": ("".join(f"%TAG !a{number}! b\n" for number in range(50_000)), "a %TAG directive"),
    "merge of an alias": ("a: &a {b: 1}\nc:\n  <<: *a", "merge keys are not part of YAML 1.2"),
    "list as a key": ("? [a, b]\n: c", "a key is a list or a mapping"),
    "long key": ("a" * 600 + ": 1", "a key with a control character or more than 512 characters"),
    "control in a key": ('"a\\nb": 1', "a key with a control character"),
    "null byte": ("a: \x00", "a control character"),
    "escape": ("é: \x1b[2J", "m.yaml:1:4: this is not YAML: a control character"),
    "unclosed": ('a: "b', "this is not YAML"),
    "too long": ("#" * 1_100_000, "larger than 1048576 characters"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_rejected(name: str) -> None:
    text, expected = HOSTILE[name]
    message = refused(text)
    assert expected in message
    assert len(message) < 2000


HOSTILE_JSON = {
    "brackets": ("[" * 500_000, "nested deeper than 64 levels"),
    "braces": ('{"a":' * 100_000, "nested deeper than 64 levels"),
    "huge integer": ("9" * 500_000, "needs more than 64 bits"),
    "huge float": ("1e999", "not finite"),
    "NaN": ("[NaN]", "expected a value"),
    "infinity": ("-Infinity", "expected a value"),
    "half a surrogate pair": ('"\\ud800"', "half of a surrogate pair"),
    "half in a key": ('{"\\ud800": 1}', "half of a surrogate pair"),
    "trailing comma": ("[1,]", "m.json:1:4: $[1]: this is not JSON: expected a value"),
    "missing comma": ("[1 2]", "expected , or ]"),
    "missing colon": ('{"a" 1}', "expected : after the key"),
    "number as a key": ("{1: 2}", "expected a key in double quotes"),
    "leading zero": ("[01]", "expected , or ]"),
    "line break in a text": ('"a\nb"', "invalid control character"),
    "wrong bracket": ("[1}", "expected , or ]"),
    "unclosed": ('{"a":', "the text ends too early"),
    "many values": ("[" + "1," * 200_000 + "1]", "more than 100000 values"),
    "comment": ("[] // no", "expected a value"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_refused(name: str) -> None:
    text, expected = HOSTILE_JSON[name]
    assert expected in refused(text, "m.json")


def test_a_surrogate_pair_is_one_character() -> None:
    assert read('"\\ud83d\\ude00"', "m.json") == ["😀"]


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1")
    assert [plain(node) for node in read_file(file, name="a.yaml")] == [{"a": 1}]
    file.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(DocumentError, match=r"a\.yaml:2:4: the text is not UTF-8; save it as UTF-8"):
        read_file(file, name="a.yaml")
    with pytest.raises(DocumentError, match=r"^b\.yaml: cannot be read: No such file or directory"):
        read_file(tmp_path / "b.yaml", name="b.yaml")
    file.write_text("é" * 1_048_577)
    with pytest.raises(DocumentError, match="larger than 1048576 characters"):
        read_file(file, name="a.yaml")
