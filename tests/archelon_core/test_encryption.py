"""Encryption: round trips, places, tampering, key rotation, and the key file of a one-machine setup."""

from __future__ import annotations

import base64
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_core import encryption

KEY = encryption.generate_key()
CIPHER = encryption.Cipher([KEY])
PLACE = ("urn:uuid:1", "password")

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_text_round_trips(text: str, context: list[str]) -> None:
    token = CIPHER.encrypt(text, context=context)
    assert CIPHER.decrypt(token, context=context) == text
    assert token.isascii()
    assert CIPHER.is_current(token)


@given(st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_a_token_decrypts_at_its_own_place_only(here: list[str], there: list[str]) -> None:
    token = CIPHER.encrypt("s", context=here)
    if here == there:
        assert CIPHER.decrypt(token, context=there) == "s"
    else:
        with pytest.raises(encryption.DecryptionError):
            CIPHER.decrypt(token, context=there)


@given(st.data())
def test_an_altered_token_does_not_decrypt(data: st.DataObject) -> None:
    head, _, body = CIPHER.encrypt("hunter2", context=PLACE).rpartition(".")
    raw = bytearray(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(encryption.DecryptionError):
        CIPHER.decrypt(f"{head}.{base64.urlsafe_b64encode(bytes(raw)).decode()}", context=PLACE)


@given(st.text())
def test_any_text_gives_a_decryption_error(token: str) -> None:
    for value in (token, f"a1.{token}", CIPHER.encrypt("", context=PLACE)[:16] + token):
        with pytest.raises(encryption.DecryptionError):
            CIPHER.decrypt(value, context=PLACE)


def test_equal_texts_give_different_tokens() -> None:
    assert CIPHER.encrypt("s", context=PLACE) != CIPHER.encrypt("s", context=PLACE)


def test_key_rotation() -> None:
    old_key, new_key = encryption.generate_key(), encryption.generate_key()
    token = encryption.Cipher([old_key]).encrypt("s", context=PLACE)

    both = encryption.Cipher([new_key, old_key])
    assert not both.is_current(token)
    renewed = both.encrypt(both.decrypt(token, context=PLACE), context=PLACE)
    assert both.is_current(renewed)

    alone = encryption.Cipher([new_key])
    assert alone.decrypt(renewed, context=PLACE) == "s"
    with pytest.raises(encryption.DecryptionError, match="not configured; add that key"):
        alone.decrypt(token, context=PLACE)


@pytest.mark.parametrize("keys", [[], ["short"], [KEY, KEY[:-4]], ["ä" * 44]])
def test_a_bad_key_is_refused_without_showing_it(keys: list[str]) -> None:
    with pytest.raises(encryption.InvalidKeyError) as caught:
        encryption.Cipher(keys)
    assert "generate_key()" in str(caught.value)
    assert not any(key in str(caught.value) for key in keys)


def test_a_context_of_one_string_raises() -> None:
    with pytest.raises(TypeError, match="sequence of names"):
        CIPHER.encrypt("s", context="urn:uuid:1")


def test_the_key_file_is_created_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keys"
    keys = encryption.keys_from_file(path)
    assert encryption.keys_from_file(path) == keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["keys"]
    path.write_text(f"# rolled\n{KEY}\n{keys[0]}\n")
    assert encryption.keys_from_file(path) == (KEY, *keys)


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    encryption.keys_from_file(path)
    path.chmod(0o640)
    with pytest.raises(encryption.InvalidKeyError, match="chmod 600"):
        encryption.keys_from_file(path)


@pytest.mark.parametrize("content", ["", "# none\n", "not a key\n"])
def test_an_unusable_key_file_is_never_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(encryption.InvalidKeyError, match="key"):
        encryption.keys_from_file(path)
    assert path.read_text() == content


def test_processes_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    """Real processes, blocked at a pipe until all are ready, then released together; repeated, since it is a race."""
    program = (
        "import sys; from pathlib import Path; from archelon_core import encryption\n"
        "for line in sys.stdin: print(encryption.keys_from_file(Path(line.strip()))[0], flush=True)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for attempt in range(30):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{tmp_path}/{attempt}/keys\n")
                process.stdin.flush()
            answers = {process.stdout.readline() for process in processes if process.stdout}
            assert len(answers) == 1
            assert answers != {""}
    finally:
        for process in processes:
            process.communicate(timeout=60)
