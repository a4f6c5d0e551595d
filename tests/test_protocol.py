"""The codec, held to the examples of ``frames.json`` and to whatever hypothesis comes up with."""

from __future__ import annotations

import datetime as dt
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import BaseModel

from threadwire import protocol
from threadwire.errors import BadFrame, CommandError, InvalidArgument, ThreadwireError, every_error
from threadwire.jsonsafe import MAX_VALUE_BYTES, MAX_VALUE_DEPTH, is_deeper, json_safe
from threadwire.protocol import COMMANDS, FRAMES, decode, decode_frame, encode, json_schema

EXAMPLES = json.loads((Path(__file__).parent / "frames.json").read_text(encoding="utf-8"))
SCHEMA = json_schema()

GOOD_COMMANDS = [example for found in EXAMPLES["commands"]["good"].values() for example in found]
GOOD_FRAMES = [example for found in EXAMPLES["frames"]["good"].values() for example in found]
BAD_COMMANDS = EXAMPLES["commands"]["bad"]
BAD_FRAMES = EXAMPLES["frames"]["bad"]


def text_of(example: dict[str, Any]) -> str:
    return example["text"] if "text" in example else json.dumps(example["command"])


def brief(example: Any) -> str:
    return json.dumps(example)[:60]


def valid(value: Any, **schema: Any) -> bool:
    """Whether a value is valid under a part of ``/protocol.json``."""
    return bool(Draft202012Validator({"$defs": SCHEMA["$defs"], **schema}).is_valid(value))


# --- the examples ---------------------------------------------------------------------------------


def test_every_command_and_field_has_an_example() -> None:
    """The good examples use each field of each command, and each type of frame."""
    for name, model in COMMANDS.items():
        used = {key for example in EXAMPLES["commands"]["good"][name] for key in example}
        assert used == {info.alias or key for key, info in model.model_fields.items()}, name
    assert set(EXAMPLES["commands"]["good"]) == set(COMMANDS)
    assert set(EXAMPLES["frames"]["good"]) == set(FRAMES)


def test_every_frame_field_has_an_example() -> None:
    """The good examples use each field of each frame, and no other."""
    for name, model in FRAMES.items():
        used = {key for example in EXAMPLES["frames"]["good"][name] for key in example}
        assert used == {info.alias or key for key, info in model.model_fields.items()}, name


@pytest.mark.parametrize("example", GOOD_COMMANDS, ids=brief)
def test_good_commands_are_read(example: dict[str, Any]) -> None:
    """A good command comes out as it went in, from text and from bytes, and is valid under its own schema."""
    command = decode(json.dumps(example))
    assert command.model_dump(exclude_unset=True) == example
    assert decode(encode(example)) == command
    assert decode(encode(command.model_dump())) == command
    assert valid(example, **SCHEMA["commands"][example["type"]])


@pytest.mark.parametrize("example", BAD_COMMANDS, ids=brief)
def test_bad_commands_are_refused(example: dict[str, Any]) -> None:
    """A bad command is refused with the code, and a message that begins with the field."""
    with pytest.raises(CommandError) as caught:
        decode(text_of(example))
    assert caught.value.code == example["code"]
    if "field" in example:
        assert caught.value.message.startswith(f"{example['field']}: ")
    command = example.get("command", {})
    identity = command.get("id")
    known = identity if isinstance(identity, str) and len(identity) <= 64 else None
    assert caught.value.command_id == known  # type: ignore[attr-defined]


@pytest.mark.parametrize("example", [found for found in BAD_COMMANDS if "command" in found], ids=brief)
def test_bad_commands_are_invalid_under_the_schema(example: dict[str, Any]) -> None:
    """What the server refuses is invalid under ``/protocol.json`` too."""
    command = example["command"]
    known = isinstance(command.get("type"), str) and command["type"] in SCHEMA["commands"]
    wanted = SCHEMA["commands"][command["type"]] if known else {"anyOf": list(SCHEMA["commands"].values())}
    assert not valid(command, **wanted)


@pytest.mark.parametrize("example", GOOD_FRAMES, ids=brief)
def test_good_frames_are_read(example: dict[str, Any]) -> None:
    """A good frame comes out as it went in and is valid under its own schema."""
    frame = decode_frame(encode(example))
    assert type(frame) is FRAMES[example["type"]]
    assert frame.model_dump(exclude_unset=True, by_alias=True) == example
    assert valid(example, **SCHEMA["frames"][example["type"]])


@pytest.mark.parametrize("example", BAD_FRAMES, ids=brief)
def test_bad_frames_are_refused(example: dict[str, Any]) -> None:
    """A bad frame is refused, naming the field, and is invalid under the schema."""
    frame = example["frame"]
    with pytest.raises(BadFrame) as caught:
        decode_frame(encode(frame))
    if example["field"] is not None:
        assert f" {example['field']}: " in caught.value.message
    wanted = SCHEMA["frames"].get(frame.get("type"), {"anyOf": list(SCHEMA["frames"].values())})
    assert not valid(frame, **wanted)


@pytest.mark.parametrize("example", EXAMPLES["frames"]["later"], ids=brief)
def test_frames_of_a_later_version_are_read(example: dict[str, Any]) -> None:
    """A client lives with types and fields it does not know, and keeps them."""
    assert decode_frame(encode(example)).model_dump(exclude_unset=True) == example


def test_the_schema_is_one() -> None:
    """``/protocol.json`` is JSON, a valid 2020-12 schema, and names every command, frame and close code."""
    assert orjson.loads(encode(SCHEMA)) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["commands"]) == set(COMMANDS)
    assert set(SCHEMA["frames"]) == set(FRAMES)
    assert {int(code) for code in SCHEMA["close_codes"]} == set(protocol.CloseCode)
    whole = Draft202012Validator(SCHEMA)
    assert all(whole.is_valid(example) for example in (*GOOD_COMMANDS, *GOOD_FRAMES))


def test_every_failure_has_a_code_of_its_own() -> None:
    """Each failure that can be told has a code that no other has, and an error frame that a client can read."""
    kinds = every_error()
    codes = [kind.code for kind in kinds if kind.__subclasses__() == []]
    assert len(codes) == len(set(codes)) == 25
    for kind in kinds:
        error = InvalidArgument("field", "wrong") if kind is InvalidArgument else kind("wrong")
        frame = decode_frame(encode(protocol.error_frame(error, "c1")))
        assert isinstance(frame, protocol.ErrorFrame)
        assert (frame.code, frame.retry) == (kind.code, kind.retry)


# --- whatever comes -------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
field_names = st.sampled_from(sorted({name for model in COMMANDS.values() for name in model.model_fields}))


def refusal(read: Callable[[str | bytes], Any], data: str | bytes) -> ThreadwireError | None:
    """What reading it raised; anything but a named failure fails the test."""
    try:
        read(data)
    except ThreadwireError as error:
        return error
    return None


def decode_or_refuse(data: str | bytes) -> None:
    started = time.process_time()
    error = refusal(decode, data)
    if error is not None:
        assert error.code in {"bad_frame", "unknown_command", "invalid_argument"}
        assert 0 < len(error.message) < 500
        encode(protocol.error_frame(error, getattr(error, "command_id", None)))
    assert time.process_time() - started < 2


@settings(max_examples=60)
@given(st.text() | st.binary())
def test_any_text_or_bytes_are_answered(data: str | bytes) -> None:
    """Nothing but a named failure comes out of whatever goes in."""
    decode_or_refuse(data)


@settings(max_examples=60)
@given(json_values)
def test_any_json_is_answered(value: Any) -> None:
    """Nothing but a named failure comes out of any JSON."""
    decode_or_refuse(json.dumps(value))


@settings(max_examples=60)
@given(st.sampled_from(sorted(COMMANDS)), st.dictionaries(field_names | st.text(max_size=8), json_values, max_size=6))
def test_any_fields_are_answered(name: str, fields: dict[str, Any]) -> None:
    """Nothing but a named failure comes out of a known command with any fields."""
    decode_or_refuse(json.dumps({**fields, "type": name}))


@settings(max_examples=60)
@given(json_values, st.sampled_from(sorted(FRAMES)), st.text() | st.binary())
def test_any_frame_is_read_or_refused(value: Any, name: str, data: str | bytes) -> None:
    """A client that is sent anything at all gets a frame or a ``BadFrame``."""
    for sent in (data, json.dumps(value), json.dumps({**(value if isinstance(value, dict) else {}), "type": name})):
        error = refusal(decode_frame, sent)
        assert error is None or (type(error) is BadFrame and error.message)


BIG = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"send","content":[' + "1," * (BIG // 2) + "1]}",
        '{"type":"send","content":[' + "{}," * (BIG // 3) + "{}]}",
        '{"type":"batch","inputs":[' + "[]," * (BIG // 3) + "1]}",
        '{"type":"subscribe","include_tags":[' + "1," * (BIG // 2) + "1]}",
        '{"type":"ping",' + ",".join(f'"k{n}":1' for n in range(BIG // 10)) + "}",
        '{"type":"send","content":"a","context":{"a":[' + "[]," * (BIG // 3) + "[]]}}",
        '{"type":"respond","responses":' + '{"a":' * 200_000 + "1" + "}" * 200_000 + "}",
        '{"type":"' + "x" * BIG + '"}',
        '{"type":"ping","id":"' + "x" * BIG + '"}',
        '{"type":"ping","' + "x" * BIG + '":1}',
        '{"type":"history","limit":' + "9" * BIG + "}",
        "[" * BIG,
    ],
    ids=brief,
)
def test_large_nonsense_is_refused_quickly(text: str) -> None:
    """A megabyte of mistakes is one short answer, within two seconds of work."""
    decode_or_refuse(text)


@pytest.mark.parametrize("came", [0, -1])
def test_a_number_out_of_range_is_named(came: int) -> None:
    """Who sent a number that is too small is told which, and not that it is one."""
    with pytest.raises(InvalidArgument) as caught:
        decode(json.dumps({"type": "batch", "inputs": ["a"], "max_concurrency": came}))
    assert caught.value.message == f"max_concurrency: expected a number from 1, got {came}"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({"type": "batch", "inputs": []}, "inputs: expected at least 1 item(s), got 0"),
        ({"type": "respond", "responses": {}}, "responses: expected at least 1 item(s), got 0"),
        ({"type": "ping", "id": "x" * 65}, "id: expected at most 64 characters, got 65"),
        ({"type": "subscribe", "exclude_tags": ["a"] * 101}, "exclude_tags: expected at most 100 items, got 101"),
    ],
)
def test_a_wrong_length_is_told(command: dict[str, Any], message: str) -> None:
    """What is too long or too short is told by how long it is, and not by what it is."""
    with pytest.raises(InvalidArgument) as caught:
        decode(json.dumps(command))
    assert caught.value.message == message


# --- encode ---------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=()) | st.characters(categories=["Cs"]))


@settings(max_examples=60)
@given(any_text, st.dictionaries(any_text, st.lists(any_text, max_size=3), max_size=3))
def test_half_characters_are_sent(text: str, fields: dict[str, Any]) -> None:
    """Text with half a surrogate pair is sent: halves that meet are joined, single ones become U+FFFD."""
    data = encode({"type": "custom", "text": text, "fields": fields})
    data.decode("utf-8")
    assert orjson.loads(data)["text"] == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_numbers_beyond_64_bits_are_sent_as_text() -> None:
    """A number that JSON parsers cannot hold becomes text, not a failed run."""
    assert orjson.loads(encode({"a": [2**64, -(2**63) - 1, 2**63]})) == {"a": [str(2**64), str(-(2**63) - 1), 2**63]}


python_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary() | st.builds(object) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | any_text | st.builds(object), inner, max_size=4)
    ),
    max_leaves=15,
)


@settings(max_examples=60)
@given(python_values)
def test_any_object_can_be_sent(value: Any) -> None:
    """Whatever a graph dispatches becomes JSON of bounded size and depth that never tells an address."""
    data = encode({"data": json_safe(value)})
    assert b" object at 0x" not in data
    assert len(data) <= 6 * MAX_VALUE_BYTES


class Colour(Enum):
    RED = "red"
    MIXED = (1, dt.date(2026, 1, 2))


class Dated(BaseModel):
    on: dt.date
    inner: Any = None


@dataclass
class Part:
    when: dt.datetime
    _hidden: int = 1


@dataclass(slots=True)
class Slotted:
    id: uuid.UUID


class Fraction(float):
    """No numpy, and no plain float."""


MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
FORMS: list[tuple[Any, Any]] = [
    (np.float64(1.5), 1.5),
    (np.float32(0.1), 0.1),
    (np.float64("nan"), None),
    (np.int8(3), 3),
    (np.bool_(True), True),
    (np.str_("x"), "x"),
    (np.datetime64("2026"), "2026-01-01T00:00:00"),
    (np.longdouble(1), "<longdouble>"),
    (np.arange(3, dtype=np.float32) * np.float32(0.1), [0.0, 0.1, 0.2]),
    (np.arange(4)[::2], [0, 2]),
    (np.array(5), 5),
    (np.array([np.int8(1), None, MOMENT], dtype=object), [1, None, "2026-01-02T03:04:05.000006+00:00"]),
    (MOMENT, "2026-01-02T03:04:05.000006+00:00"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.time(3, 4), "03:04:00"),
    (dt.timedelta(1), "<timedelta>"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Colour.RED, "red"),
    (Colour.MIXED, [1, "2026-01-02"]),
    (Dated(on=MOMENT.date(), inner=[Colour.RED]), {"on": "2026-01-02", "inner": ["red"]}),
    (Part(MOMENT), {"when": "2026-01-02T03:04:05.000006+00:00"}),
    (Slotted(uuid.UUID(int=1)), {"id": "00000000-0000-0000-0000-000000000001"}),
    (Fraction(0.5), 0.5),
    ({Colour.RED: 1, MOMENT.date(): 2, 1.5: 3, math.nan: 5}, {"red": 1, "2026-01-02": 2, "1.5": 3, "null": 5}),
]


class Unreadable(Mapping[str, Any]):
    """Raises when it is looked into."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda value: type(value).__name__)
def test_a_bad_neighbour_changes_nothing(value: Any, form: Any) -> None:
    """A value has one form, alone and beside what orjson will not write: a cycle, a key, half a character."""
    assert json_safe(value) == form
    cycle: dict[str, Any] = {}
    cycle["me"] = cycle
    assert json_safe({"value": value, "cycle": cycle}) == {"value": form, "cycle": {"me": "<cycle>"}}
    assert json_safe([value, "\ud800", Unreadable()]) == [form, "\ufffd", "<Unreadable>"]
    assert json_safe({"value": value, (1,): np.float64(1.5)}) == {"value": form, "<tuple>": 1.5}


def test_deep_and_cyclic_objects_can_be_sent() -> None:
    """What nests without end is cut at a depth that every client can read."""
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    deep: Any = "bottom"
    for _ in range(200):
        deep = [deep]
    deeper: Any = "bottom"
    for _ in range(5000):
        deeper = {"a": deeper}
    for value in (cyclic, deep, deeper):
        found = json_safe(value)
        assert not is_deeper(found, MAX_VALUE_DEPTH)
        decode_frame(encode({"type": "custom", "seq": 1, "run_id": "r", "name": "n", "data": found}))


@settings(max_examples=50)
@given(json_values.filter(lambda value: isinstance(value, dict)))
def test_is_deeper_counts_levels(value: dict[str, Any]) -> None:
    """``is_deeper`` agrees with a plain recursive count."""

    def depth(found: Any) -> int:
        children = found.values() if isinstance(found, dict) else found if isinstance(found, list) else None
        return 0 if children is None else 1 + max(map(depth, children), default=0)

    assert [is_deeper(value, n) for n in range(1, 8)] == [depth(value) > n for n in range(1, 8)]
