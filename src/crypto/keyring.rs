//! The key ring: every secret of every epoch that a slot may have, and what is done with them.
//! Page: `format-spec/crypto.md`.

use super::CryptoError;
use super::aead::{Aead, aead};
use crate::env::{Random, random_bytes};
use crate::format::config::Suite;
use crate::format::ids::{ChunkId, ChunkKind, RepositoryId, SectionId, SlotId};
use crate::format::pack::SectionRecord;
use crate::format::ring::{ENCAPSULATED_BYTES, RingSecrets};
use crate::format::roster::KEM_PUBLIC_BYTES;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

const LABEL_SECTION: &str = "keepstone/1 section";
const LABEL_RING: &str = "keepstone/1 ring";

/// An X-Wing key pair: the private key is a 32-byte seed.
pub struct KemKeyPair {
    /// The private key.
    pub private: Zeroizing<[u8; 32]>,
    /// The public key, [`KEM_PUBLIC_BYTES`] long.
    pub public: Vec<u8>,
}

impl KemKeyPair {
    /// A fresh pair.
    pub fn generate(random: &dyn Random) -> Self {
        let private = Zeroizing::new(random_bytes::<32>(random));
        let public = kem_public(&private).expect("every 32-byte seed is a private key");
        KemKeyPair { private, public }
    }
}

/// The public key for a private one.
///
/// # Errors
/// [`CryptoError::BadKey`].
pub fn kem_public(private: &[u8; 32]) -> Result<Vec<u8>, CryptoError> {
    let key =
        <XWing as Kem>::PrivateKey::from_bytes(private).map_err(|_| CryptoError::BadKey { what: "private key" })?;
    Ok(XWing::sk_to_pk(&key).to_bytes().to_vec())
}

/// Adapts the library's randomness to what HPKE takes.
struct HpkeRandom<'a>(&'a dyn Random);

impl hpke::rand_core::TryRng for HpkeRandom<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(random_bytes(self.0)))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(random_bytes(self.0)))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for HpkeRandom<'_> {}

/// Seals `plain` to an X-Wing public key: HPKE base mode, HKDF-SHA256, the suite's AEAD, empty
/// additional data. Gives the encapsulated key and the ciphertext.
pub(super) fn hpke_seal(
    suite: Suite,
    public: &[u8],
    info: &[u8],
    plain: &[u8],
    random: &dyn Random,
) -> Result<([u8; ENCAPSULATED_BYTES], Vec<u8>), CryptoError> {
    use hpke::aead::{AesGcm256, ChaCha20Poly1305};
    use hpke::kdf::HkdfSha256;
    let bad = |_| CryptoError::BadKey { what: "receiving public key" };
    let public = <XWing as Kem>::PublicKey::from_bytes(public).map_err(bad)?;
    let mut random = HpkeRandom(random);
    let mode = OpModeS::Base;
    let (encapsulated, sealed) = match suite {
        Suite::ChaCha20Poly1305 => hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &mode,
            &public,
            info,
            plain,
            b"",
            &mut random,
        ),
        Suite::Aes256Gcm => hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, XWing>(
            &mode,
            &public,
            info,
            plain,
            b"",
            &mut random,
        ),
    }
    .map_err(bad)?;
    let mut bytes = [0u8; ENCAPSULATED_BYTES];
    bytes.copy_from_slice(&encapsulated.to_bytes());
    Ok((bytes, sealed))
}

/// Opens what [`hpke_seal`] sealed.
pub(super) fn hpke_open(
    suite: Suite,
    private: &[u8; 32],
    info: &[u8],
    encapsulated: &[u8],
    sealed: &[u8],
    what: &'static str,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    use hpke::aead::{AesGcm256, ChaCha20Poly1305};
    use hpke::kdf::HkdfSha256;
    let private =
        <XWing as Kem>::PrivateKey::from_bytes(private).map_err(|_| CryptoError::BadKey { what: "private key" })?;
    let unauthentic = |_| CryptoError::Unauthentic { what };
    let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(encapsulated).map_err(unauthentic)?;
    let mode = OpModeR::Base;
    match suite {
        Suite::ChaCha20Poly1305 => hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &mode,
            &private,
            &encapsulated,
            info,
            sealed,
            b"",
        ),
        Suite::Aes256Gcm => {
            hpke::single_shot_open::<AesGcm256, HkdfSha256, XWing>(&mode, &private, &encapsulated, info, sealed, b"")
        }
    }
    .map(Zeroizing::new)
    .map_err(unauthentic)
}

/// `label ‖ 0 ‖ repository ‖ suite ‖ epoch ‖ name`: what binds a sealed secret to its place.
fn info(label: &str, repository: RepositoryId, suite: Suite, epoch: u64, name: &[u8; 16]) -> Vec<u8> {
    let mut info = label.as_bytes().to_vec();
    info.push(0);
    info.extend_from_slice(&repository.0);
    info.push(suite as u8);
    info.extend_from_slice(&epoch.to_le_bytes());
    info.extend_from_slice(name);
    info
}

/// What a roster states of an epoch, so that a ring of another rotation under its number is noticed: it
/// derives from the epoch's `meta`, which every role has.
pub fn epoch_commitment(repository: RepositoryId, epoch: u64, secrets: &RingSecrets) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("keepstone/1 epoch commitment");
    hasher.update(&secrets.meta).update(&repository.0).update(&epoch.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Seals a ring to a slot; gives the encapsulated key and the ciphertext.
///
/// # Errors
/// [`CryptoError::BadKey`] when the slot's public key is unusable.
pub fn seal_ring(
    suite: Suite,
    repository: RepositoryId,
    epoch: u64,
    slot: SlotId,
    slot_public: &[u8],
    secrets: &RingSecrets,
    random: &dyn Random,
) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
    let info = info(LABEL_RING, repository, suite, epoch, &slot.0);
    let (encapsulated, sealed) = hpke_seal(suite, slot_public, &info, &secrets.encode(), random)?;
    Ok((encapsulated.to_vec(), sealed))
}

/// Opens a ring with its slot's private key.
///
/// # Errors
/// [`CryptoError::Unauthentic`] when it was sealed to another slot or altered.
pub fn open_ring(
    suite: Suite,
    repository: RepositoryId,
    ring: &crate::format::ring::Ring,
    slot_private: &[u8; 32],
) -> Result<RingSecrets, CryptoError> {
    let info = info(LABEL_RING, repository, suite, ring.epoch, &ring.slot.0);
    let plain = hpke_open(suite, slot_private, &info, &ring.encapsulated, &ring.sealed, "the ring")?;
    Ok(RingSecrets::decode(&plain)?)
}

/// Seals or opens the frames of one section.
pub struct SectionKey {
    cipher: Box<dyn Aead>,
    additional: Vec<u8>,
}

impl SectionKey {
    fn additional(&self, number: u64, raw_length: u32) -> Vec<u8> {
        let mut additional = self.additional.clone();
        additional.extend_from_slice(&number.to_le_bytes());
        additional.extend_from_slice(&raw_length.to_le_bytes());
        additional
    }

    /// Seals frame `number` of `raw_length` plaintext bytes, in place.
    pub fn seal(&self, number: u64, raw_length: u32, bytes: &mut Vec<u8>) {
        self.cipher.seal(number, &self.additional(number, raw_length), bytes);
    }

    /// Opens it again, in place; gives the length.
    ///
    /// # Errors
    /// [`CryptoError::Unauthentic`].
    pub fn open(&self, number: u64, raw_length: u32, bytes: &mut [u8]) -> Result<usize, CryptoError> {
        self.cipher.open("a frame", number, &self.additional(number, raw_length), bytes)
    }
}

/// The secrets of all epochs and the keys derived from them.
pub struct Keyring {
    /// Whose they are.
    pub repository: RepositoryId,
    /// The ciphers.
    pub suite: Suite,
    rings: BTreeMap<u64, RingSecrets>,
}

impl Keyring {
    /// From rings by epoch; there is at least one.
    pub fn new(repository: RepositoryId, suite: Suite, rings: BTreeMap<u64, RingSecrets>) -> Option<Self> {
        (!rings.is_empty()).then_some(Keyring { repository, suite, rings })
    }

    /// A first ring with every secret fresh.
    ///
    /// The secrets are random and independent; none derives from another.
    pub fn generate(random: &dyn Random) -> RingSecrets {
        let seal = KemKeyPair::generate(random);
        RingSecrets {
            id: Some(random_bytes(random)),
            gear: Some(random_bytes(random)),
            meta: random_bytes(random),
            seal_public: Some(seal.public),
            seal_private: Some(*seal.private),
        }
    }

    /// The epoch that new objects are sealed under.
    pub fn current_epoch(&self) -> u64 {
        self.rings.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// The newest epoch whose chunk ids are those of `epoch`: what is read out of a section of that epoch may be
    /// sealed anew under this one, and not under a later one, for there its chunks would have other ids.
    ///
    /// # Errors
    /// [`CryptoError::NotPermitted`] for a maintainer.
    pub fn newest_with_ids_of(&self, epoch: u64) -> Result<u64, CryptoError> {
        let lacks = CryptoError::NotPermitted { action: "compute chunk ids", epoch };
        let id = self.ring(epoch)?.id.ok_or(lacks)?;
        let same = self.rings.iter().filter(|(_, ring)| ring.id == Some(id)).map(|(epoch, _)| *epoch);
        Ok(same.max().unwrap_or(epoch))
    }

    /// All epochs with their secrets.
    pub fn rings(&self) -> &BTreeMap<u64, RingSecrets> {
        &self.rings
    }

    fn ring(&self, epoch: u64) -> Result<&RingSecrets, CryptoError> {
        self.rings.get(&epoch).ok_or(CryptoError::NotPermitted { action: "read objects of this epoch", epoch })
    }

    /// True when this slot can open payloads of the current epoch.
    pub fn can_open_payloads(&self) -> bool {
        self.rings.last_key_value().is_some_and(|(_, ring)| ring.seal_private.is_some())
    }

    /// The hasher of chunk ids in an epoch.
    ///
    /// # Errors
    /// [`CryptoError::NotPermitted`] for a maintainer.
    pub fn ids(&self, epoch: u64) -> Result<ChunkHasher, CryptoError> {
        let id = self.ring(epoch)?.id.ok_or(CryptoError::NotPermitted { action: "compute chunk ids", epoch })?;
        Ok(ChunkHasher::new(&id))
    }

    /// The seed of the chunker's table in the current epoch.
    ///
    /// # Errors
    /// [`CryptoError::NotPermitted`] for a maintainer.
    pub fn gear(&self) -> Result<[u8; 32], CryptoError> {
        let epoch = self.current_epoch();
        self.ring(epoch)?.gear.ok_or(CryptoError::NotPermitted { action: "cut chunks", epoch })
    }

    /// The AEAD for a metadata object: its key derives from `meta` and the object's kind and salt.
    ///
    /// # Errors
    /// [`CryptoError::NotPermitted`] when the epoch's ring is not there.
    pub fn metadata_cipher(&self, epoch: u64, kind: u8, salt: &[u8; 32]) -> Result<Box<dyn Aead>, CryptoError> {
        let key = self.metadata_key(epoch, "keepstone/1 metadata object", kind, salt)?;
        Ok(aead(self.suite, &key))
    }

    /// Bytes that pad a pack: indistinguishable from ciphertext for whoever lacks `meta`.
    ///
    /// # Errors
    /// As [`Keyring::metadata_cipher`].
    pub fn padding(&self, epoch: u64, salt: &[u8; 32]) -> Result<blake3::OutputReader, CryptoError> {
        let key = self.metadata_key(epoch, "keepstone/1 pack padding", 0, salt)?;
        Ok(blake3::Hasher::new_keyed(&key).finalize_xof())
    }

    fn metadata_key(
        &self,
        epoch: u64,
        label: &str,
        kind: u8,
        salt: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        let mut hasher = blake3::Hasher::new_derive_key(label);
        hasher.update(&self.ring(epoch)?.meta);
        hasher.update(&self.repository.0).update(&[kind]).update(salt);
        Ok(Zeroizing::new(*hasher.finalize().as_bytes()))
    }

    /// Additional data of a metadata object: repository, kind, epoch.
    pub fn metadata_context(&self, epoch: u64, kind: u8) -> Vec<u8> {
        let mut context = self.repository.0.to_vec();
        context.push(kind);
        context.extend_from_slice(&epoch.to_le_bytes());
        context
    }

    /// Begins a section: a fresh secret, sealed to the payload key of the current epoch.
    ///
    /// # Errors
    /// [`CryptoError::NotPermitted`] for a maintainer.
    pub fn create_section(&self, random: &dyn Random) -> Result<(SectionRecord, SectionKey), CryptoError> {
        self.create_section_under(self.current_epoch(), random)
    }

    /// As [`Keyring::create_section`], sealed to the payload key of any epoch.
    ///
    /// # Errors
    /// As there.
    pub fn create_section_under(
        &self,
        epoch: u64,
        random: &dyn Random,
    ) -> Result<(SectionRecord, SectionKey), CryptoError> {
        let ring = self.ring(epoch)?;
        let public =
            ring.seal_public.as_deref().ok_or(CryptoError::NotPermitted { action: "store payloads", epoch })?;
        debug_assert_eq!(public.len(), KEM_PUBLIC_BYTES);
        let section = SectionId(random_bytes(random));
        let secret = Zeroizing::new(random_bytes::<32>(random));
        let info = info(LABEL_SECTION, self.repository, self.suite, epoch, &section.0);
        let (encapsulated, sealed) = hpke_seal(self.suite, public, &info, &secret[..], random)?;
        let (key, commitment) = self.section_keys(ring, &secret[..], &info);
        let mut sealed_secret = [0u8; 48];
        sealed_secret.copy_from_slice(&sealed);
        let record = SectionRecord { section, epoch, encapsulated, sealed_secret, commitment };
        let key = self.section_key(&record, &key);
        Ok((record, key))
    }

    /// Opens a section's secret with the payload key of its epoch.
    ///
    /// # Errors
    /// [`CryptoError::NotPermitted`] without that key; [`CryptoError::Unauthentic`] when altered;
    /// [`CryptoError::Mismatch`] when the commitment differs.
    pub fn open_section(&self, record: &SectionRecord) -> Result<SectionKey, CryptoError> {
        let ring = self.ring(record.epoch)?;
        let private = ring
            .seal_private
            .as_ref()
            .ok_or(CryptoError::NotPermitted { action: "read payloads", epoch: record.epoch })?;
        let info = info(LABEL_SECTION, self.repository, self.suite, record.epoch, &record.section.0);
        let secret =
            hpke_open(self.suite, private, &info, &record.encapsulated, &record.sealed_secret, "a section's secret")?;
        let (key, commitment) = self.section_keys(ring, &secret, &info);
        // The AEADs don't commit to their key; without this a ciphertext could open under two.
        if commitment != record.commitment {
            return Err(CryptoError::Mismatch {
                what: "a section's key commitment",
                expected: blake3::Hash::from(record.commitment).to_hex().to_string(),
                actual: blake3::Hash::from(commitment).to_hex().to_string(),
            });
        }
        Ok(self.section_key(record, &key))
    }

    /// Section key and commitment from the secret mixed with `meta`, so that whoever breaks the KEM
    /// still lacks the key.
    fn section_keys(&self, ring: &RingSecrets, secret: &[u8], info: &[u8]) -> (Zeroizing<[u8; 32]>, [u8; 32]) {
        let derive = |label: &str| {
            let mut hasher = blake3::Hasher::new_derive_key(label);
            hasher.update(secret).update(&ring.meta).update(info);
            *hasher.finalize().as_bytes()
        };
        (Zeroizing::new(derive("keepstone/1 section key")), derive("keepstone/1 section commitment"))
    }

    fn section_key(&self, record: &SectionRecord, key: &[u8; 32]) -> SectionKey {
        let mut additional = self.repository.0.to_vec();
        additional.push(self.suite as u8);
        additional.extend_from_slice(&record.epoch.to_le_bytes());
        additional.extend_from_slice(&record.section.0);
        SectionKey { cipher: aead(self.suite, key), additional }
    }
}

/// Computes ChunkIds of one epoch and the keyed hashes that cut sequences.
#[derive(Clone)]
pub struct ChunkHasher {
    kinds: [Zeroizing<[u8; 32]>; 3],
    cut: Zeroizing<[u8; 32]>,
}

impl ChunkHasher {
    fn new(id: &[u8; 32]) -> Self {
        let derive = |label: &str| Zeroizing::new(blake3::derive_key(label, id));
        ChunkHasher {
            kinds: [
                derive("keepstone/1 chunk id data"),
                derive("keepstone/1 chunk id tree"),
                derive("keepstone/1 chunk id list"),
            ],
            cut: derive("keepstone/1 sequence cut"),
        }
    }

    /// The id of a chunk.
    pub fn id(&self, kind: ChunkKind, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.kinds[kind as usize], bytes).as_bytes())
    }

    /// The keyed hash of a record's key that decides where a sequence is cut.
    pub fn cut_hash(&self, record_key: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.cut, record_key);
        let mut first = [0u8; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededRandom;

    fn keyring(suite: Suite) -> Keyring {
        let ring = Keyring::generate(&SeededRandom::new(1));
        Keyring::new(RepositoryId([9; 16]), suite, BTreeMap::from([(1, ring)])).expect("a ring")
    }

    #[test]
    fn a_section_opens_for_owners_only_and_only_unaltered() {
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let owner = keyring(suite);
            let (record, key) = owner.create_section(&SeededRandom::new(2)).expect("sealed");
            let mut frame = b"frame".to_vec();
            key.seal(3, 5, &mut frame);
            let opened = owner.open_section(&record).expect("opened");
            assert_eq!(opened.open(3, 5, &mut frame.clone()), Ok(5));
            assert!(opened.open(4, 5, &mut frame.clone()).is_err());
            assert!(opened.open(3, 6, &mut frame).is_err());

            let mut altered = record.clone();
            altered.commitment[0] ^= 1;
            assert!(matches!(owner.open_section(&altered), Err(CryptoError::Mismatch { .. })));
            let mut moved = record.clone();
            moved.section.0[0] ^= 1;
            assert!(matches!(owner.open_section(&moved), Err(CryptoError::Unauthentic { .. })));

            let mut ring = Keyring::generate(&SeededRandom::new(1));
            ring.seal_private = None;
            let writer = Keyring::new(owner.repository, suite, BTreeMap::from([(1, ring)])).expect("a ring");
            assert!(matches!(writer.open_section(&record), Err(CryptoError::NotPermitted { .. })));
        }
    }

    #[test]
    fn kinds_have_separate_ids() {
        let ids = keyring(Suite::ChaCha20Poly1305).ids(1).expect("ids");
        let [data, tree, list] = [ChunkKind::Data, ChunkKind::Tree, ChunkKind::List].map(|kind| ids.id(kind, b"same"));
        assert!(data != tree && tree != list && data != list);
    }
}
