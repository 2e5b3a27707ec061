//! Little-endian numbers in byte strings. Beyond the end, reads are 0 and writes are dropped.

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, offset))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    let there = bytes.get(offset..).unwrap_or_default();
    let len = there.len().min(N);
    array[..len].copy_from_slice(&there[..len]);
    array
}

/// Writes `value` at `offset`.
pub(crate) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..offset + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The low `width` bytes of `value` instead of those at `offset` of `old`, which is 8 bytes wide.
pub(crate) fn merge(old: u64, offset: usize, width: usize, value: u64) -> u64 {
    let mut bytes = old.to_le_bytes();
    put(&mut bytes, offset, &value.to_le_bytes()[..width]);
    u64::from_le_bytes(bytes)
}

/// `width` bytes at `offset` of `value`, which is 8 bytes wide.
pub(crate) fn extract(value: u64, offset: usize, width: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(&value.to_le_bytes()[offset..offset + width]);
    u64::from_le_bytes(bytes)
}
