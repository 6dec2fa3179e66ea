"""Messages: what is written is read again, and no bytes do harm."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mirage_jax.live import protocol
from mirage_jax.live.protocol import (
    Blend,
    FreePicture,
    Hello,
    Prompt,
    ProtocolError,
    Record,
    Reset,
    Share,
    SourcePicture,
    State,
    Statistics,
    Steps,
    Strength,
    Style,
    StyledPicture,
    decode_from_client,
    decode_from_server,
    encode,
)

TEXT = st.text(max_size=300)
SEQUENCE = st.integers(0, 2**32 - 1)
TIME = st.floats(allow_nan=False, allow_infinity=False)
DATA = st.binary(min_size=1, max_size=200)
COUNT = st.integers(0, 2**60)
AMOUNT = st.floats(0, 1)
FROM_CLIENT = st.one_of(
    st.builds(Hello, TEXT),
    st.builds(SourcePicture, SEQUENCE, TIME, DATA),
    st.builds(Prompt, TEXT),
    st.builds(Style, TEXT),
    st.just(Reset()),
    st.builds(Share, TEXT, TEXT),
    st.builds(Blend, TEXT, TEXT, AMOUNT),
    st.builds(Record, st.booleans()),
    st.builds(Strength, AMOUNT),
    st.builds(Steps, COUNT),
)
FROM_SERVER = st.one_of(
    st.builds(
        State, st.sampled_from(protocol.STATES), TEXT, st.booleans(), COUNT, COUNT
    ),
    st.builds(StyledPicture, SEQUENCE, TIME, st.booleans(), DATA),
    st.builds(FreePicture, SEQUENCE, DATA),
    st.builds(Statistics, TIME, COUNT, COUNT, COUNT, COUNT, TIME, COUNT, COUNT, COUNT),
)


@given(FROM_CLIENT)
def test_clients_messages_come_back(message):
    data = encode(message)
    assert decode_from_client(data) == message
    with pytest.raises(ProtocolError):  # nobody can speak for the server
        decode_from_server(data)


@given(FROM_SERVER)
def test_servers_messages_come_back(message):
    data = encode(message)
    assert decode_from_server(data) == message
    with pytest.raises(ProtocolError):
        decode_from_client(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_a_reason(data):
    try:
        decode_from_client(data)
    except ProtocolError as error:
        assert str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)
NAMES = st.sampled_from(["token", "text", "name", "state", "x"])


@given(st.sampled_from([1, 3, 4, 5]), JSON | st.dictionaries(NAMES, JSON))
def test_any_json_is_a_message_or_a_reason(kind, value):
    try:
        message = decode_from_client(bytes([kind, 1]) + json.dumps(value).encode())
    except ProtocolError:
        return
    assert decode_from_client(encode(message)) == message
    assert all(type(field) is str for field in vars(message).values())


@given(FROM_CLIENT, st.integers(0, 400), st.binary(max_size=3))
def test_damaged_messages_are_messages_or_reasons(message, place, instead):
    data = encode(message)
    try:
        decode_from_client(data[:place] + instead + data[place + len(instead) :])
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too short"),
        (b"\x01\x02{}", "version 2 of the protocol is unknown"),
        (b"\x7f\x01{}", "kind 127 is unknown"),
        (b"\x11\x01{}", "kind 17 is unknown"),
        (b"\x02\x01" + bytes(12), "picture is missing"),
        (b"\x02\x01" + bytes(4) + b"\x7f\xf0" + bytes(6) + b"x", "not a finite"),
        (b"\x03\x01\xff", "not JSON"),
        (b"\x03\x01" + b"[" * 8000, "not JSON"),
        (b"\x03\x01" + b"9" * 8000, "not JSON"),
        (b"\x03\x01" + b"x" * 8193, "more than 8192 bytes"),
        (b'\x03\x01{"text": 3}', "text must be of type str"),
        (b'\x03\x01{"text": "a", "more": 1}', "exactly: text"),
        (b'\x05\x01{"now": true}', "exactly: none"),
        (b'\x09\x01{"amount": 1.01}', "amount must be from 0 to 1"),
        (b'\x09\x01{"amount": -1}', "amount must be from 0 to 1"),
        (b'\x09\x01{"amount": NaN}', "amount is not a finite number"),
        (b'\x09\x01{"amount": "much"}', "amount must be of type float"),
        (b'\x09\x01{"amount": true}', "amount must be of type float"),
        (b'\x07\x01{"text": "a", "other": "b", "amount": 2}', "from 0 to 1"),
        (b'\x0a\x01{"count": 1.5}', "count must be of type int"),
        (b'\x0a\x01{"count": true}', "count must be of type int"),
    ],
)
def test_what_is_wrong_is_said(data, reason):
    with pytest.raises(ProtocolError, match=reason):
        decode_from_client(data)


def test_reasons_repeat_nothing_that_was_sent():
    with pytest.raises(ProtocolError) as error:
        decode_from_client(b'\x03\x01{"secret wish": 1}')
    assert "secret" not in str(error.value)
