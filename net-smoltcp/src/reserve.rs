//! Buffers that one link keeps for itself.

use parakernel_core::memory::{Arena, Pool, Segment, SegmentList};

use crate::link::Link;

/// A [`Link`] with a reserve of receive buffers.
///
/// A hardware receive queue arms every buffer that it finds in the pool. Where two links share a pool, as in a
/// [`Joined`](crate::Joined) one, the other would never have a buffer to receive into while the ring is larger than the
/// pool. This one takes buffers from the shared pool up to its reserve before anybody else of the turn, and receives
/// into those.
#[derive(Debug)]
pub struct Reserving<'a, L> {
    link: L,
    reserve: Pool<'a>,
    count: usize,
}

impl<'a, L> Reserving<'a, L> {
    /// `link` with a reserve of up to `count` buffers, which `reserve`, a pool of the same arena, has room for.
    #[must_use]
    pub const fn new(link: L, reserve: Pool<'a>, count: usize) -> Self {
        Self {
            link,
            reserve,
            count,
        }
    }
}

impl<L: Link> Link for Reserving<'_, L> {
    type Error = L::Error;

    fn receive(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error> {
        while self.reserve.free() < self.count
            && let Some(buffer) = pool.take()
        {
            self.reserve.put(buffer);
        }
        self.link.receive(&mut self.reserve, frames, budget)
    }

    fn send(&mut self, arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
        self.link.send(arena, frame)
    }

    fn flush(&mut self, pool: &mut Pool<'_>) -> Result<(), Self::Error> {
        self.link.flush(pool)
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use parakernel_core::{address::Iova, error::ErrorKind, memory::ArenaLayout};

    use super::*;

    const LAYOUT: ArenaLayout = ArenaLayout {
        stride: 128,
        headroom: 16,
        header: 12,
        count: 8,
    };

    /// Receives one frame a turn, if there is a buffer for it.
    struct Steady;

    impl Link for Steady {
        type Error = ErrorKind;

        fn receive(
            &mut self,
            pool: &mut Pool<'_>,
            frames: &mut SegmentList<'_>,
            _budget: usize,
        ) -> Result<usize, ErrorKind> {
            let Some(buffer) = pool.take() else {
                return Ok(0);
            };
            frames.push(buffer.with_len(60)).unwrap();
            Ok(1)
        }

        fn send(&mut self, _arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
            Err(frame)
        }

        fn flush(&mut self, _pool: &mut Pool<'_>) -> Result<(), ErrorKind> {
            Ok(())
        }
    }

    #[test]
    fn a_link_receives_from_its_reserve_when_others_have_emptied_the_pool() {
        let memory = vec![0_u64; LAYOUT.bytes() / 8].leak();
        #[expect(unsafe_code, reason = "an arena in leaked memory")]
        // SAFETY: the memory is leaked, and there is no other arena.
        let arena = unsafe { Arena::new(NonNull::from(memory).cast(), Iova::new(0x1000), LAYOUT) };
        let (mut words, mut reserve_words, mut list_words) = ([0; 8], [0; 3], [0; 8]);
        let mut pool = Pool::new(arena.unwrap(), &mut words);
        let reserve = pool.split_off(0, &mut reserve_words);
        let mut link = Reserving::new(Steady, reserve, 3);
        let mut frames = SegmentList::new(&mut list_words);
        assert_eq!(link.receive(&mut pool, &mut frames, 1), Ok(1));
        assert_eq!(pool.free(), 5, "three are reserved");
        // A hardware ring arms the rest.
        let armed: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        for received in [1, 1, 0] {
            assert_eq!(link.receive(&mut pool, &mut frames, 1), Ok(received));
        }
        // The stack has seen a frame, and its buffer comes back.
        pool.put(frames.pop().unwrap());
        assert_eq!(link.receive(&mut pool, &mut frames, 1), Ok(1));
        assert_eq!(pool.free(), 0, "and is reserved before anybody arms it");
        assert_eq!(armed.len(), 5);
    }
}
