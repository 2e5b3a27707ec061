//! What the controller says about itself and its namespaces (NVMe 1.4 §5.15).

use core::{
    mem::offset_of,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    time::Duration,
};

use bitflags::bitflags;
use parakernel_core::memory::SharedMemory;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{U16, U32, U64},
};

use crate::error::NamespaceError;

bitflags! {
    /// Optional Admin Command Support (OACS).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct AdminCommands: u16 {
        /// Namespace management and attachment.
        const NAMESPACE_MANAGEMENT = 1 << 3;
        /// Doorbell Buffer Config.
        const DOORBELL_BUFFER = 1 << 8;
    }

    /// Optional NVM Command Support (ONCS).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct NvmCommands: u16 {
        /// Compare.
        const COMPARE = 1 << 0;
        /// Dataset Management, which deallocates blocks.
        const DATASET_MANAGEMENT = 1 << 2;
        /// Write Zeroes.
        const WRITE_ZEROES = 1 << 3;
    }
}

/// The start of the Identify Controller structure, as the controller writes it (NVMe 1.4 figure 247).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawController {
    vid: U16,
    ssvid: U16,
    sn: [u8; 20],
    mn: [u8; 40],
    fr: [u8; 8],
    _rab_to_cmic: [u8; 5],
    mdts: u8,
    cntlid: U16,
    ver: U32,
    _rtd3r: U32,
    rtd3e: U32,
    oaes: U32,
    _ctratt_to_fguid: [u8; 32],
    crdt: [U16; 3],
    _reserved_134: [u8; 122],
    oacs: U16,
    acl: u8,
    aerl: u8,
    _frmw: u8,
    _lpa: u8,
    elpe: u8,
    _npss_to_apsta: [u8; 3],
    wctemp: U16,
    cctemp: U16,
    _mtfa_to_reserved: [u8; 242],
    sqes: u8,
    cqes: u8,
    _maxcmd: U16,
    nn: U32,
    oncs: U16,
    _fuses: U16,
    _fna: u8,
    vwc: u8,
    _awun_to_reserved: [u8; 10],
    sgls: U32,
}

const _: () = assert!(size_of::<RawController>() == 540);
const _: () = assert!(offset_of!(RawController, mdts) == 77);
const _: () = assert!(offset_of!(RawController, rtd3e) == 88);
const _: () = assert!(offset_of!(RawController, crdt) == 128);
const _: () = assert!(offset_of!(RawController, oacs) == 256);
const _: () = assert!(offset_of!(RawController, elpe) == 262);
const _: () = assert!(offset_of!(RawController, wctemp) == 266);
const _: () = assert!(offset_of!(RawController, sqes) == 512);
const _: () = assert!(offset_of!(RawController, nn) == 516);
const _: () = assert!(offset_of!(RawController, oncs) == 520);
const _: () = assert!(offset_of!(RawController, vwc) == 525);
const _: () = assert!(offset_of!(RawController, sgls) == 536);

/// Log2 of the size of the entries that this driver uses: 64 and 16 bytes, which every NVM controller has.
pub(crate) const SUBMISSION_ENTRY_LOG2: u8 = 6;
pub(crate) const COMPLETION_ENTRY_LOG2: u8 = 4;

/// How SGLs may be used (SGLS bits 1:0), NVMe 1.4 figure 247.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SglSupport {
    /// Not at all.
    None,
    /// With data at any address.
    Any,
    /// With data at multiples of 4 bytes.
    Dword,
}

/// What the controller said about itself, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControllerData {
    /// PCI vendor.
    pub vendor: u16,
    /// Serial number, padded with spaces.
    pub serial: [u8; 20],
    /// Model, padded with spaces.
    pub model: [u8; 40],
    /// Firmware revision, padded with spaces.
    pub firmware: [u8; 8],
    /// The controller's number in its subsystem.
    pub controller_id: u16,
    /// The longest transfer in bytes (MDTS); `None` where there is no limit.
    pub max_transfer: Option<u64>,
    /// The greatest namespace id (NN).
    pub namespaces: u32,
    /// Optional admin commands.
    pub admin_commands: AdminCommands,
    /// Optional I/O commands.
    pub nvm_commands: NvmCommands,
    /// Whether there is a write cache, so that a flush means something.
    pub volatile_write_cache: bool,
    /// How many Abort commands may be outstanding, at least 1.
    pub abort_limit: u16,
    /// How many event requests may be outstanding, at least 1.
    pub event_limit: u16,
    /// Entries of the error log, at least 1.
    pub error_log_entries: u16,
    /// The delays that a status may ask for before another try.
    pub retry_delays: [Duration; 3],
    /// How long shutting down may take; at least one second.
    pub shutdown_timeout: Duration,
    /// SGLs in I/O commands.
    pub sgl: SglSupport,
    /// Composite temperatures in kelvin for a warning and for "critical", 0 where not reported.
    pub temperatures: [u16; 2],
    pub(crate) entry_sizes: [u8; 2],
    pub(crate) events: u32,
}

/// The unit of the retry delays (CRDT1 to 3), NVMe 1.4 figure 247.
const RETRY_UNIT: Duration = Duration::from_millis(100);

impl ControllerData {
    /// Before the controller was asked.
    pub(crate) const UNKNOWN: Self = Self {
        vendor: 0,
        serial: [b' '; 20],
        model: [b' '; 40],
        firmware: [b' '; 8],
        controller_id: 0,
        max_transfer: None,
        namespaces: 0,
        admin_commands: AdminCommands::empty(),
        nvm_commands: NvmCommands::empty(),
        volatile_write_cache: false,
        abort_limit: 1,
        event_limit: 1,
        error_log_entries: 1,
        retry_delays: [Duration::ZERO; 3],
        shutdown_timeout: Duration::from_secs(1),
        sgl: SglSupport::None,
        temperatures: [0; 2],
        entry_sizes: [0; 2],
        events: 0,
    };

    /// Reads the structure out of `page`, of which a device may change anything at any time.
    pub(crate) fn read(page: SharedMemory<'_>) -> Option<Self> {
        let raw: RawController = copy(page, 0)?;
        let sgl = match raw.sgls.get() & 3 {
            1 => SglSupport::Any,
            2 => SglSupport::Dword,
            _ => SglSupport::None,
        };
        Some(Self {
            vendor: raw.vid.get(),
            serial: raw.sn,
            model: raw.mn,
            firmware: raw.fr,
            controller_id: raw.cntlid.get(),
            // In units of the *smallest* page, which is 4 KiB on every controller that bring-up accepts.
            max_transfer: (raw.mdts != 0).then(|| {
                1_u64
                    .checked_shl(12 + u32::from(raw.mdts))
                    .unwrap_or(u64::MAX)
            }),
            namespaces: raw.nn.get(),
            admin_commands: AdminCommands::from_bits_retain(raw.oacs.get()),
            nvm_commands: NvmCommands::from_bits_retain(raw.oncs.get()),
            volatile_write_cache: raw.vwc & 1 != 0,
            abort_limit: u16::from(raw.acl) + 1,
            event_limit: u16::from(raw.aerl) + 1,
            error_log_entries: u16::from(raw.elpe) + 1,
            retry_delays: raw.crdt.map(|units| RETRY_UNIT * u32::from(units.get())),
            // RTD3E is in microseconds, and 0 where not reported.
            shutdown_timeout: Duration::from_micros(raw.rtd3e.get().into())
                .max(Duration::from_secs(1)),
            sgl,
            temperatures: [raw.wctemp.get(), raw.cctemp.get()],
            entry_sizes: [raw.sqes, raw.cqes],
            events: raw.oaes.get(),
        })
    }

    /// Whether the controller takes entries of 64 and 16 bytes: "required" in the low, "maximum" in the high half.
    pub(crate) const fn has_entry_sizes(&self) -> bool {
        const fn holds(sizes: u8, wanted: u8) -> bool {
            sizes & 0xf <= wanted && wanted <= sizes >> 4
        }
        holds(self.entry_sizes[0], SUBMISSION_ENTRY_LOG2)
            && holds(self.entry_sizes[1], COMPLETION_ENTRY_LOG2)
    }
}

/// An LBA format, as the controller writes it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawFormat {
    metadata_size: U16,
    data_size_log2: u8,
    performance: u8,
}

/// The start of the Identify Namespace structure, as the controller writes it (NVMe 1.4 figure 245).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawNamespace {
    nsze: U64,
    ncap: U64,
    nuse: U64,
    nsfeat: u8,
    nlbaf: u8,
    flbas: u8,
    mc: u8,
    dpc: u8,
    dps: u8,
    nmic: u8,
    rescap: u8,
    _fpi_to_reserved: [u8; 67],
    nsattr: u8,
    _nvmsetid_to_eui64: [u8; 28],
    formats: [RawFormat; 64],
}

const _: () = assert!(offset_of!(RawNamespace, dps) == 29);
const _: () = assert!(offset_of!(RawNamespace, nsattr) == 99);
const _: () = assert!(offset_of!(RawNamespace, formats) == 128);

/// Log2 of the smallest block, 512 bytes, NVMe 1.4 figure 246 (LBADS).
const MIN_BLOCK_LOG2: u8 = 9;
/// Log2 of the largest block accepted: one that fits the longest transfer, so that at least one block can be moved.
const MAX_BLOCK_LOG2: u8 = 20;

/// What the controller said about a namespace, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NamespaceData {
    /// Number of blocks, not 0.
    pub blocks: u64,
    /// Log2 of a block's bytes, 9 to 20.
    pub block_shift: u8,
    /// Whether it is write protected at the moment.
    pub write_protected: bool,
}

impl NamespaceData {
    /// Reads the structure out of `page`; `None` for a namespace that is not there (all zeroes, §5.15.2.2).
    pub(crate) fn read(page: SharedMemory<'_>) -> Result<Option<Self>, NamespaceError> {
        let raw: RawNamespace = copy(page, 0).ok_or(NamespaceError::Malformed)?;
        let blocks = raw.nsze.get();
        if blocks == 0 {
            return Ok(None);
        }
        // FLBAS bits 6:5 hold the index's upper bits where there are more than 16 formats (NVMe 2.0), else they are 0.
        let upper = if raw.nlbaf >= 16 {
            raw.flbas >> 5 & 3
        } else {
            0
        };
        let index = usize::from(raw.flbas & 0xf | upper << 4);
        let format = raw.formats.get(index).ok_or(NamespaceError::Malformed)?;
        if index > usize::from(raw.nlbaf) {
            return Err(NamespaceError::Malformed);
        }
        let metadata = format.metadata_size.get();
        if metadata != 0 {
            return Err(NamespaceError::Metadata { bytes: metadata });
        }
        let block_shift = format.data_size_log2;
        if !(MIN_BLOCK_LOG2..=MAX_BLOCK_LOG2).contains(&block_shift) {
            return Err(NamespaceError::BlockSize { log2: block_shift });
        }
        // The last byte must have an address, so that no later arithmetic on blocks can overflow.
        if blocks > u64::MAX >> block_shift {
            return Err(NamespaceError::Malformed);
        }
        Ok(Some(Self {
            blocks,
            block_shift,
            write_protected: raw.nsattr & 1 != 0,
        }))
    }
}

/// Copies a value out of memory that may change meanwhile: each byte is read once.
pub(crate) fn copy<T: FromBytes + IntoBytes>(memory: SharedMemory<'_>, offset: usize) -> Option<T> {
    let mut value = T::new_zeroed();
    let bytes = value.as_mut_bytes();
    let source = memory.slice::<AtomicU8>(offset, bytes.len())?;
    for (to, from) in bytes.iter_mut().zip(source) {
        *to = from.load(Relaxed);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;
    use core::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;

    /// A page that has these bytes at these offsets, which are the specification's.
    fn read<T>(bytes: &[(usize, &[u8])], then: impl FnOnce(SharedMemory<'_>) -> T) -> T {
        let page: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
        // SAFETY: atomics that outlive the view.
        #[expect(unsafe_code, reason = "views the page as shared memory")]
        let memory = unsafe { SharedMemory::new(NonNull::from(&page).cast(), size_of_val(&page)) };
        for (offset, bytes) in bytes {
            for (byte, cell) in bytes
                .iter()
                .zip(memory.slice::<AtomicU8>(*offset, bytes.len()).unwrap())
            {
                cell.store(*byte, Relaxed);
            }
        }
        then(memory)
    }

    #[test]
    fn a_controller_has_its_fields_where_the_specification_says() {
        let bytes: [(usize, &[u8]); 12] = [
            (0, &[0x4d, 0x14]),
            (4, b"S123"),
            (77, &[5]),
            (88, &0x0030_0000_u32.to_le_bytes()),
            (128, &[1, 0, 2, 0, 0, 1]),
            (256, &[0x08, 0x01]),
            (258, &[3, 7]),
            (262, &[63]),
            (266, &[0x50, 0x01, 0x60, 0x01]),
            (512, &[0x66, 0x44]),
            (516, &[2, 0, 0, 0, 0x0c, 0]),
            (525, &[1]),
        ];
        let data = read(&bytes, ControllerData::read).unwrap();
        assert_eq!((data.vendor, &data.serial[..4]), (0x144d, &b"S123"[..]));
        assert_eq!(data.max_transfer, Some(128 << 10));
        assert_eq!(data.shutdown_timeout, Duration::from_micros(0x30_0000));
        assert_eq!(
            data.retry_delays,
            [1, 2, 256].map(|units| Duration::from_millis(units * 100))
        );
        let both = AdminCommands::NAMESPACE_MANAGEMENT | AdminCommands::DOORBELL_BUFFER;
        assert_eq!(data.admin_commands, both);
        assert_eq!(
            (data.abort_limit, data.event_limit, data.error_log_entries),
            (4, 8, 64)
        );
        assert_eq!((data.temperatures, data.namespaces), ([0x150, 0x160], 2));
        assert_eq!(
            data.nvm_commands,
            NvmCommands::DATASET_MANAGEMENT | NvmCommands::WRITE_ZEROES
        );
        assert!(data.volatile_write_cache && data.has_entry_sizes());
        let no_limit = read(&[(77, &[0])], ControllerData::read).unwrap();
        assert_eq!(no_limit.max_transfer, None);
        for (sgls, expected) in [
            (0, SglSupport::None),
            (1, SglSupport::Any),
            (2, SglSupport::Dword),
            (3, SglSupport::None),
        ] {
            assert_eq!(
                read(&[(536, &[sgls])], ControllerData::read).unwrap().sgl,
                expected
            );
        }
    }

    #[test]
    fn entries_of_other_sizes_are_seen() {
        for (sizes, fits) in [
            ([0x66, 0x44], true),
            ([0x76, 0x54], true),
            ([0x77, 0x44], false),
            ([0x55, 0x44], false),
            ([0x66, 0x55], false),
        ] {
            assert_eq!(
                read(&[(512, &sizes)], ControllerData::read)
                    .unwrap()
                    .has_entry_sizes(),
                fits,
                "{sizes:x?}"
            );
        }
    }

    /// A namespace of 1,000 blocks with the format of index `flbas` out of `nlbaf + 1`.
    fn namespace(
        nlbaf: u8,
        flbas: u8,
        format: (usize, [u8; 4]),
    ) -> Result<Option<NamespaceData>, NamespaceError> {
        let at = 128 + 4 * format.0;
        read(
            &[(0, &[0xe8, 3]), (25, &[nlbaf, flbas]), (at, &format.1)],
            NamespaceData::read,
        )
    }

    #[test]
    fn the_format_in_use_is_found_and_strange_ones_are_refused() {
        assert_eq!(read(&[], NamespaceData::read), Ok(None));
        let plain = NamespaceData {
            blocks: 1000,
            block_shift: 12,
            write_protected: false,
        };
        assert_eq!(namespace(1, 1, (1, [0, 0, 12, 0])), Ok(Some(plain)));
        assert_eq!(
            namespace(20, 0x20 | 2, (18, [0, 0, 12, 0])),
            Ok(Some(plain))
        );
        assert_eq!(
            namespace(1, 2, (2, [0, 0, 12, 0])),
            Err(NamespaceError::Malformed)
        );
        assert_eq!(
            namespace(0, 0, (0, [8, 0, 9, 0])),
            Err(NamespaceError::Metadata { bytes: 8 })
        );
        for log2 in [0, 8, 21, 64, 255] {
            assert_eq!(
                namespace(0, 0, (0, [0, 0, log2, 0])),
                Err(NamespaceError::BlockSize { log2 })
            );
        }
        let huge = read(&[(0, &[0xff; 8]), (130, &[9])], NamespaceData::read);
        assert_eq!(huge, Err(NamespaceError::Malformed));
    }

    proptest! {
        /// Whatever the page holds, what comes out of it keeps what its documentation says.
        #[test]
        fn any_bytes_are_a_description_or_an_error(bytes in prop::collection::vec(any::<u8>(), 4096)) {
            let found = read(&[(0, &bytes)], NamespaceData::read);
            if let Ok(Some(data)) = found {
                prop_assert!((9..=20).contains(&data.block_shift));
                prop_assert!(data.blocks.checked_mul(1 << data.block_shift).is_some());
            }
            let data = read(&[(0, &bytes)], ControllerData::read).unwrap();
            prop_assert!(data.abort_limit > 0 && data.max_transfer.is_none_or(|bytes| bytes >= 4096));
        }
    }
}
