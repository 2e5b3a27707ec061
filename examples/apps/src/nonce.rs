//! The UDP request that proves who answered it.
//!
//! The host sends a nonce to a process's address; the process answers with the nonce transformed by a key that only it
//! and the host know. An answer from another process, a stale one or a damaged one does not verify, and gaps in the
//! sequence numbers count what was lost.
//!
//! Request and answer are 32 bytes, numbers little-endian; a longer datagram carries padding, which comes back as it
//! was:
//!
//! | bytes | holds |
//! |---|---|
//! | 0..4 | `PKRQ` in a request, `PKAN` in an answer |
//! | 4..8 | zero |
//! | 8..16 | sequence number |
//! | 16..24 | nonce in a request; the transformed nonce in an answer |
//! | 24..32 | the sender's time stamp, returned untouched |

use crate::pattern::mix;

/// The UDP port of the nonce service in every network process.
pub const PORT: u16 = 7000;

/// Bytes of a request and of an answer.
pub const LEN: usize = 32;

const REQUEST: [u8; 4] = *b"PKRQ";
const ANSWER: [u8; 4] = *b"PKAN";

/// What a datagram of this service says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Counts the requests of one sender to one process.
    pub sequence: u64,
    /// The nonce, or what became of it.
    pub nonce: u64,
    /// The sender's time stamp, in a unit of its own.
    pub sent_at: u64,
}

/// What a process with `key` makes of `nonce`.
#[must_use]
pub const fn answer(key: u64, nonce: u64) -> u64 {
    mix(nonce ^ mix(key))
}

/// Turns the request in `datagram` into its answer, in place.
///
/// Returns whether it was a request; a datagram that is none is left alone.
pub fn answer_in_place(key: u64, datagram: &mut [u8]) -> bool {
    match Message::parse(REQUEST, datagram) {
        Some(request) => {
            let nonce = answer(key, request.nonce);
            Message { nonce, ..request }.write(ANSWER, datagram)
        }
        None => false,
    }
}

impl Message {
    /// Writes this message as a request into the first [`LEN`] bytes of `datagram`, if it has that many.
    pub fn write_request(&self, datagram: &mut [u8]) -> bool {
        self.write(REQUEST, datagram)
    }

    /// Reads an answer.
    #[must_use]
    pub fn parse_answer(datagram: &[u8]) -> Option<Self> {
        Self::parse(ANSWER, datagram)
    }

    fn write(self, kind: [u8; 4], datagram: &mut [u8]) -> bool {
        let Some(head) = datagram.first_chunk_mut::<LEN>() else {
            return false;
        };
        head[..4].copy_from_slice(&kind);
        head[4..8].fill(0);
        head[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        head[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        head[24..].copy_from_slice(&self.sent_at.to_le_bytes());
        true
    }

    fn parse(kind: [u8; 4], datagram: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = datagram.get(at..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let kind = u64::from(u32::from_le_bytes(kind));
        (word(0)? == kind).then_some(())?;
        Some(Self {
            sequence: word(8)?,
            nonce: word(16)?,
            sent_at: word(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQ: Message = Message {
        sequence: 7,
        nonce: 0x1234,
        sent_at: 99,
    };

    #[test]
    fn a_request_comes_back_transformed() {
        let mut datagram = [0xaa_u8; 40];
        assert!(REQ.write_request(&mut datagram));
        assert!(answer_in_place(5, &mut datagram));
        let expected = Message {
            nonce: answer(5, 0x1234),
            ..REQ
        };
        assert_eq!(Message::parse_answer(&datagram), Some(expected));
        assert_eq!(datagram[LEN..], [0xaa; 8], "padding is returned");
    }

    #[test]
    fn keys_give_different_answers() {
        for key in 0..1000 {
            assert_ne!(answer(key, 1), answer(key + 1, 1));
        }
    }

    #[test]
    fn anything_else_is_left_alone() {
        let mut answered = [0; LEN];
        REQ.write(ANSWER, &mut answered);
        let before = answered;
        assert!(
            !answer_in_place(5, &mut answered),
            "an answer is not answered again"
        );
        assert_eq!(answered, before);
        assert!(!answer_in_place(5, &mut answered[..31]));
        assert!(!REQ.write_request(&mut [0; 31]));
    }
}
