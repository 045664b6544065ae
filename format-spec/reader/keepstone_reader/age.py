"""age v1 files (https://c2sp.org/age): scrypt and X25519 recipients, binary payloads. Key files are such."""

import base64
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .wire import FormatError

SCRYPT_LOG_N_MAX = 20
VERSION_LINE = b"age-encryption.org/v1\n"
CHUNK = 65536
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


class WrongSecret(Exception):
    """The file is sound, but not for this passphrase or identity."""


def bad(detail):
    return FormatError("KEY-1", detail)


def hkdf(key, salt, info):
    """HKDF-SHA256, 32 bytes."""
    pseudo = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(pseudo, info + b"\x01", "sha256")


def _base64(text, size=None):
    if b"=" in text:
        raise bad("padded base64")
    try:
        value = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise bad("not base64") from None
    if base64.b64encode(value).rstrip(b"=") != text:
        raise bad("base64 not canonical")
    if size is not None and len(value) != size:
        raise bad(f"{len(value)} bytes where {size} belong")
    return value


def _polymod(values):
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> place & 1 else 0
    return check


def parse_identity(line):
    """The 32 bytes of an `AGE-SECRET-KEY-1…` line."""
    if line != line.upper() or not line.startswith("AGE-SECRET-KEY-1"):
        raise ValueError("not an age X25519 identity")
    text = line.lower()
    split = text.rindex("1")
    prefix, data = text[:split], text[split + 1 :]
    if any(char not in _BECH32 for char in data):
        raise ValueError("a character that bech32 doesn't have")
    values = [_BECH32.index(char) for char in data]
    expanded = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    if _polymod(expanded + values) != 1:
        raise ValueError("the identity's checksum is wrong")
    number = 0
    for value in values[:-6]:
        number = number << 5 | value
    bits = 5 * (len(values) - 6)
    if bits // 8 != 32 or number & ((1 << bits % 8) - 1):
        raise ValueError("an identity of the wrong length")
    return (number >> bits % 8).to_bytes(32, "big")


def parse_identities(text):
    """All identities of an age identity file."""
    lines = (line.strip() for line in text.splitlines())
    return [parse_identity(line) for line in lines if line and not line.startswith("#")]


def _line(data, at):
    end = data.find(b"\n", at)
    if end < 0:
        raise bad("header cut short")
    return data[at:end], end + 1


def parse_header(data):
    """Gives stanzas as (type, arguments, body), the MAC, the MAC's input and the payload."""
    if not data.startswith(VERSION_LINE):
        raise bad("no age v1 version line")
    at, stanzas = len(VERSION_LINE), []
    while True:
        line, following = _line(data, at)
        if line.startswith(b"--- "):
            if not stanzas:
                raise bad("no recipient")
            return stanzas, _base64(line[4:], 32), data[: at + 3], data[following:]
        words = line.split(b" ")
        if words[0] != b"->" or len(words) < 2 or not all(words):
            raise bad("a malformed stanza")
        if any(not 33 <= byte <= 126 for word in words for byte in word):
            raise bad("a malformed stanza argument")
        at, encoded = following, b""
        while True:
            line, at = _line(data, at)
            if len(line) > 64:
                raise bad("a stanza line of more than 64 characters")
            encoded += line
            if len(line) < 64:
                break
        stanzas.append((words[1], words[2:], _base64(encoded)))


def _unwrap(key, body):
    if len(body) != 32:
        raise bad("a wrapped file key of the wrong size")
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), body, None)
    except InvalidTag:
        return None


def _scrypt(stanza, passphrase):
    _, arguments, body = stanza
    if len(arguments) != 2:
        raise bad("a malformed scrypt stanza")
    salt = _base64(arguments[0], 16)
    if not arguments[1].isdigit() or arguments[1].startswith(b"0"):
        raise bad("a malformed work factor")
    if len(arguments[1]) > 2 or int(arguments[1]) > SCRYPT_LOG_N_MAX:
        raise FormatError("KEY-2", f"scrypt work factor {arguments[1].decode()}, at most {SCRYPT_LOG_N_MAX} accepted")
    cost = 1 << int(arguments[1])
    key = hashlib.scrypt(
        passphrase,
        salt=b"age-encryption.org/v1/scrypt" + salt,
        n=cost,
        r=8,
        p=1,
        maxmem=cost * 1024 + (64 << 20),
        dklen=32,
    )
    return _unwrap(key, body)


def _x25519(stanza, identity):
    _, arguments, body = stanza
    if len(arguments) != 1:
        raise bad("a malformed X25519 stanza")
    share = _base64(arguments[0], 32)
    private = X25519PrivateKey.from_private_bytes(identity)
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError:
        raise bad("a share of low order") from None
    salt = share + private.public_key().public_bytes_raw()
    return _unwrap(hkdf(shared, salt, b"age-encryption.org/v1/X25519"), body)


def _payload(file_key, data):
    if len(data) < 16:
        raise bad("payload cut short")
    cipher = ChaCha20Poly1305(hkdf(file_key, data[:16], b"payload"))
    data, plain, counter = data[16:], b"", 0
    while True:
        part, data = data[: CHUNK + 16], data[CHUNK + 16 :]
        nonce = counter.to_bytes(11, "big") + (b"\0" if data else b"\1")
        try:
            opened = cipher.decrypt(nonce, part, None)
        except InvalidTag:
            raise bad("the payload was altered or cut") from None
        if not opened and counter:
            raise bad("an empty last part")
        plain += opened
        counter += 1
        if not data:
            return plain


def decrypt(data, passphrase=None, identities=()):
    """The plaintext of an age file. Raises WrongSecret when it isn't for what is given."""
    stanzas, mac, covered, payload = parse_header(data)
    kinds = [kind for kind, _, _ in stanzas]
    if b"scrypt" in kinds and len(kinds) > 1:
        raise FormatError("KEY-2", "a scrypt stanza that isn't the only one")
    file_key = None
    for stanza in stanzas:
        if stanza[0] == b"scrypt" and passphrase is not None:
            file_key = _scrypt(stanza, passphrase)
        elif stanza[0] == b"X25519":
            file_key = next(filter(None, (_x25519(stanza, identity) for identity in identities)), None)
        if file_key:
            break
    if not file_key:
        raise WrongSecret
    if not hmac.compare_digest(hmac.digest(hkdf(file_key, b"", b"header"), covered, "sha256"), mac):
        raise bad("the header's MAC is wrong")
    return _payload(file_key, payload)
