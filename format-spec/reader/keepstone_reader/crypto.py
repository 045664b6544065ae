"""Derivations, ciphers, HPKE and signatures (crypto.md)."""

import hashlib
import math

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from .wire import FormatError

DATA, TREE, LIST = range(3)
KIND_LABELS = ["data", "tree", "list"]
SECTION_RECORD = 1224
ENCAPSULATED = 1120
TAG = 16

# The encodings of the points of order 1, 2, 4 and 8, non-canonical ones included.
_SMALL_ORDER = {
    bytes.fromhex(text[:62] + f"{int(text[62:], 16) | sign:02x}")
    for text in (
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "00" * 32,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
    for sign in (0, 0x80)
}


def digest(data):
    return blake3(data).digest()


def derive(label, *parts, length=32):
    return blake3(b"".join(parts), derive_key_context=f"keepstone/1 {label}").digest(length=length)


def u64(value):
    return value.to_bytes(8, "little")


def fingerprint(root_public):
    return derive("root fingerprint", root_public)


def verify(public, signed_part, signature):
    """True when the signature holds strictly (SIGN-4)."""
    if public in _SMALL_ORDER or signature[:32] in _SMALL_ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, b"keepstone/1 signature\0" + digest(signed_part))
    except (InvalidSignature, ValueError):
        return False
    return True


def signing_public(private):
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _nonce(number):
    return bytes(4) + u64(number)


def aead_open(suite, key, number, additional, sealed):
    """The plaintext, or None when the ciphertext was altered or is another key's."""
    cipher = ChaCha20Poly1305(key) if suite == 1 else AESGCM(key)
    try:
        return cipher.decrypt(_nonce(number), sealed, additional)
    except InvalidTag:
        return None


def _x_wing(seed):
    expanded = hashlib.shake_256(seed).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])


def kem_public(seed):
    """The X-Wing public key of a 32-byte seed."""
    lattice, curve = _x_wing(seed)
    return lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()


def hpke_open(suite, seed, info, encapsulated, sealed):
    """HPKE base mode, X-Wing, HKDF-SHA256; None when it doesn't open."""
    cipher = hpke.AEAD.CHACHA20_POLY1305 if suite == 1 else hpke.AEAD.AES_256_GCM
    mode = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, cipher)
    try:
        return mode.decrypt(encapsulated + sealed, hpke.MLKEM768X25519PrivateKey(*_x_wing(seed)), info=info)
    except (InvalidTag, ValueError):
        return None


def info(label, repository, suite, epoch, name):
    return f"keepstone/1 {label}".encode() + b"\0" + repository + bytes([suite]) + u64(epoch) + name


def metadata_key(meta, repository, kind, salt):
    return derive("metadata object", meta, repository, bytes([kind]), salt)


def epoch_commitment(meta, repository, epoch):
    return derive("epoch commitment", meta, repository, u64(epoch))


def metadata_open(suite, ring, repository, kind, epoch, salt, number, sealed):
    additional = repository + bytes([kind]) + u64(epoch)
    return aead_open(suite, metadata_key(ring.meta, repository, kind, salt), number, additional, sealed)


class ChunkIds:
    """ChunkIds and cut hashes under one `id` secret."""

    def __init__(self, secret):
        self.keys = [derive(f"chunk id {label}", secret) for label in KIND_LABELS]
        self.cut_key = derive("sequence cut", secret)

    def id(self, kind, plain):
        return blake3(plain, key=self.keys[kind]).digest()

    def cut_hash(self, key):
        return int.from_bytes(blake3(key, key=self.cut_key).digest()[:8], "little")


class Section:
    """A section record (crypto.md), and once opened its key."""

    def __init__(self, record):
        self.id = record[:16]
        self.epoch = int.from_bytes(record[16:24], "little")
        self.encapsulated = record[24:1144]
        self.sealed_secret = record[1144:1192]
        self.commitment = record[1192:]

    def open(self, suite, repository, ring):
        """The section key; `ring` is the one of the record's epoch."""
        about = info("section", repository, suite, self.epoch, self.id)
        secret = hpke_open(suite, ring.seal_private, about, self.encapsulated, self.sealed_secret)
        if secret is None or len(secret) != 32:
            raise FormatError("SECTION-1", f"the secret of section {self.id.hex()} doesn't open")
        if derive("section commitment", secret, ring.meta, about) != self.commitment:
            raise FormatError("SECTION-2", f"the commitment of section {self.id.hex()} differs")
        return derive("section key", secret, ring.meta, about)

    def open_frame(self, suite, repository, key, number, raw_length, sealed):
        """A frame's plaintext: codec byte and chunks."""
        additional = repository + bytes([suite]) + u64(self.epoch) + self.id + u64(number)
        plain = aead_open(suite, key, number, additional + raw_length.to_bytes(4, "little"), sealed)
        if plain is None or not plain:
            raise FormatError("FRAME-4", f"frame {number} of section {self.id.hex()} doesn't open")
        return plain


def gear_table(seed):
    stream = derive("gear table", seed, length=2048)
    return [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 2048, 8)]


_MASKS = {
    12: 0x0000D90103530000,
    13: 0x0000D90303530000,
    14: 0x0000D90313530000,
    15: 0x0000D90F03530000,
    16: 0x0000D90303537000,
    17: 0x0000D90703537000,
    18: 0x0000D90707537000,
    19: 0x0000D91707537000,
    20: 0x0000D91747537000,
    21: 0x0000D91767537000,
}
_U64 = (1 << 64) - 1


def chunk_lengths(data, average, gear):
    """Where the chunker cuts `data`. A reader needs it only to check the vectors."""
    bits = round(math.log2(average))
    strict, loose = _MASKS[bits + 1], _MASKS[bits - 1]
    least, most = average // 4, average * 4
    shifted = [value << 1 & _U64 for value in gear]
    lengths, start = [], 0
    while start < len(data):
        length = min(len(data) - start, most)
        cut = length
        if length > least:
            centre = min(average, length) // 2
            hashed = 0
            for index in range(least // 2, length // 2):
                mask = strict if index < centre else loose
                at = start + 2 * index
                hashed = ((hashed << 2) + shifted[data[at]]) & _U64
                if not hashed & (mask << 1):
                    cut = 2 * index
                    break
                hashed = (hashed + gear[data[at + 1]]) & _U64
                if not hashed & mask:
                    cut = 2 * index + 1
                    break
        lengths.append(cut)
        start += cut
    return lengths
