//! Types to bytes and back: little-endian, fixed-width integers, lengths of 8 bytes, no byte left
//! over, every allocation bounded before it is made.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::de::{BorrowDecode, BorrowDecoder};
use bincode::enc::write::{SizeWriter, Writer};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};

use super::{ProgramVersion, Text};
use crate::protocol::BODY_BYTES_MAX;
use crate::protocol::address::Address;
use crate::protocol::crypto::Plain;
use crate::protocol::head::{Fingerprint, Home, Version};
use crate::protocol::identity::{
    Incarnation, NodeId, PUBLIC_KEY_BYTES, PublicKey, RANK_BYTES, Rank, SIGNATURE_BYTES, Session,
};
use crate::protocol::rings::{Ring, Stretch};
use crate::protocol::verdict::Reason;
use crate::protocol::view::BucketSet;

type Config = Configuration<LittleEndian, Fixint, Limit<DECODED_BYTES_MAX>>;

/// What one decode may allocate, bytes: a list in memory is larger than on the wire.
const DECODED_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;

const CONFIG: Config = bincode::config::standard()
    .with_little_endian()
    .with_fixed_int_encoding()
    .with_limit::<DECODED_BYTES_MAX>();

/// In the place where it is to be signed and sealed, with room for a signature.
pub(super) fn plain<T: Encode>(kind: u8, message: &T) -> Result<Plain, EncodeError> {
    let mut size = SizeWriter::default();
    bincode::encode_into_writer(message, &mut size, CONFIG)?;
    let mut plain = Plain::new(kind, size.bytes_written + SIGNATURE_BYTES);
    bincode::encode_into_writer(message, Behind(&mut plain), CONFIG)?;
    Ok(plain)
}

struct Behind<'a>(&'a mut Plain);

impl Writer for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.push(bytes);
        Ok(())
    }
}

pub(super) fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, Reason> {
    match bincode::borrow_decode_from_slice(bytes, CONFIG) {
        Ok((message, used)) if used == bytes.len() => Ok(message),
        _ => Err(Reason::Malformed),
    }
}

/// A length as it travels.
pub(super) fn length(length: usize) -> u64 {
    length as u64
}

/// A list of at most so many items: a longer one is refused before its first item is read.
pub(super) struct Bounded<T, const MAX: usize>(pub(super) Vec<T>);

impl<'de, Context, T: BorrowDecode<'de, Context>, const MAX: usize> BorrowDecode<'de, Context>
    for Bounded<T, MAX>
{
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let count = u64::borrow_decode(decoder)?;
        let count = usize::try_from(count).ok().filter(|count| *count <= MAX);
        let count = count.ok_or(DecodeError::Other("a list is too long"))?;
        decoder.claim_container_read::<T>(count)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            // The item claims what it needs itself.
            decoder.unclaim_bytes_read(size_of::<T>());
            items.push(T::borrow_decode(decoder)?);
        }
        Ok(Self(items))
    }
}

/// Types with rules of their own travel as the text or the bytes that they are made of.
macro_rules! travels_as {
    ($type:ty, $carrier:ty, $to:expr, $from:expr) => {
        impl Encode for $type {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                let to: fn(&$type) -> $carrier = $to;
                to(self).encode(encoder)
            }
        }

        impl<'de, Context> BorrowDecode<'de, Context> for $type {
            fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(
                decoder: &mut D,
            ) -> Result<Self, DecodeError> {
                let from: fn($carrier) -> Option<Self> = $from;
                let carrier = <$carrier>::borrow_decode(decoder)?;
                from(carrier).ok_or(DecodeError::Other(concat!("not a ", stringify!($type))))
            }
        }
    };
}

travels_as!(NodeId, &str, NodeId::as_str, |text| NodeId::new(text).ok());
travels_as!(Address, &str, Address::as_str, |text| Address::new(text).ok());
travels_as!(Text, &str, Text::as_str, |text| {
    Some(Text::new(text)).filter(|taken| taken.as_str() == text)
});
travels_as!(ProgramVersion, &str, ProgramVersion::as_str, |text| {
    Some(ProgramVersion::new(text)).filter(|taken| taken.as_str() == text)
});
travels_as!(PublicKey, [u8; PUBLIC_KEY_BYTES], |key| key.0, |bytes| Some(PublicKey(bytes)));
travels_as!(Ring, u8, |ring| *ring as u8, Ring::of);
travels_as!(
    Stretch,
    (NodeId, NodeId),
    |stretch| (stretch.after.clone(), stretch.through.clone()),
    |(after, through)| Some(Stretch { after, through })
);
travels_as!(BucketSet, u32, |buckets| buckets.0, |bits| Some(BucketSet(bits)));
travels_as!(Rank, [u8; RANK_BYTES], |rank| rank.0, |bytes| Some(Rank(bytes)));
travels_as!(Incarnation, [u8; 16], |it| it.0, |bytes| Some(Incarnation(bytes)));
travels_as!(Session, [u8; 16], |session| session.0, |bytes| Some(Session(bytes)));
travels_as!(
    Home,
    (Incarnation, Option<Address>),
    |home| (home.incarnation, home.address.clone()),
    |(incarnation, address)| { Some(Home { incarnation, address }) }
);
travels_as!(Version, (u64, Fingerprint), |version| (version.timestamp, version.fingerprint), |(
    timestamp,
    fingerprint,
)| {
    Some(Version { timestamp, fingerprint })
});
