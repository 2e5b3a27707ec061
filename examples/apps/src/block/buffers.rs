//! The buffers of a job that are in no request.

use parakernel_core::memory::BlockBuffer;

/// A stack of buffers in memory of the caller's.
#[derive(Debug)]
pub(super) struct Buffers<'a> {
    /// The free ones first.
    places: &'a mut [Option<BlockBuffer>],
    free: usize,
}

impl<'a> Buffers<'a> {
    /// The buffers in `places`, which may have gaps.
    pub(super) fn new(places: &'a mut [Option<BlockBuffer>]) -> Self {
        places.sort_unstable_by_key(Option::is_none);
        let free = places.iter().filter(|place| place.is_some()).count();
        Self { places, free }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.free == 0
    }

    pub(super) fn take(&mut self) -> Option<BlockBuffer> {
        let last = self.free.checked_sub(1)?;
        let buffer = self.places.get_mut(last)?.take();
        self.free = last;
        buffer
    }

    /// Gives back a buffer that was taken here.
    pub(super) fn put(&mut self, buffer: BlockBuffer) {
        if let Some(place) = self.places.get_mut(self.free) {
            *place = Some(buffer);
            self.free += 1;
        }
    }
}
