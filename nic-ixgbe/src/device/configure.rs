//! What is written between the reset and the first queue; none of it waits.

use parakernel_core::{
    mmio::{Register, Registers},
    steering::Mac,
};

use super::{Device, Sharing};
use crate::{
    error::InitError,
    regs::{
        CtrlExt, Dmatxctl, Dtxmxszrq, Fctrl, GcrExt, Hlreg0, Maxfrs, Mcstctrl, Mrqc, Mtqc,
        Pfdtxgswc, Pfqde, Pfvtctl, QUEUES, Rdrxctl, Rfctl, Rttdcs, Rttdqsel, Rttdt1c, Rxcsum,
        Vlnctrl,
        table::{
            BitTableBlock, EtherTypeBlock, Etqf, Etqs, FiveTupleBlock, Ftqf, MpsarHigh, MpsarLow,
            Mta, Pfuta, Pfvfre, Pfvfte, Pfvlvf, Pfvlvfb, PoolBlock, PoolMaskBlock, Rah, Ral,
            ReceiveAddressBlock, Rxpbsize, TrafficClassBlock, Txpbsize, Txpbthresh, Vfta,
        },
    },
};

/// The receive packet buffer, in KiB, of which the Flow Director gets its part, and the first traffic class the rest
/// (§4.6.11.3.4).
const RX_BUFFER_KIB: u64 = 512;
/// The transmit packet buffer, in KiB.
const TX_BUFFER_KIB: u64 = 160;
/// Below the buffer's end, in bytes: what the peer may still send after it was told to pause (§4.6.3.2).
const RX_HEADROOM: u64 = 0x6000;
/// Bytes of a CRC.
const CRC: u64 = 4;
/// The longest frame that the MAC takes, CRC included (§8.2.3.22.13).
const MAX_FRAME: u64 = 15_872;

impl<R: Registers> Device<'_, R> {
    /// Everything of §4.6.3 between the link and the queues.
    pub(super) fn configure(&mut self) -> Result<(), InitError> {
        self.mac = self.read_mac()?;
        self.set_up_general();
        self.set_up_pauses();
        self.clear_filters();
        self.set_up_receive()?;
        self.set_up_transmit();
        self.keep_order();
        if self.sharing == Sharing::Pools {
            self.set_up_pools();
        }
        if let Some(config) = self.director() {
            self.set_up_director(config);
        }
        self.set_up_interrupts();
        self.clear_statistics();
        Ok(())
    }

    /// The EEPROM's address is in the first receive address (§8.2.3.7.9).
    fn read_mac(&self) -> Result<Mac, InitError> {
        let first = self.row::<ReceiveAddressBlock>(0);
        let (low, high) = (first.read::<Ral>(), first.read::<Rah>());
        let bytes = (high.field(Rah::RAH) << 32 | low.bits()).to_le_bytes();
        let [a, b, c, d, e, f, ..] = bytes;
        let mac = Mac([a, b, c, d, e, f]);
        if mac.is_group() || mac == Mac([0; 6]) {
            return Err(InitError::Mac(mac));
        }
        Ok(mac)
    }

    /// No snooping by choice, no relaxed order: what is written later is seen later. The driver is loaded.
    fn set_up_general(&self) {
        self.port().modify(|ext: CtrlExt| {
            ext.with(CtrlExt::NS_DIS, 1)
                .with(CtrlExt::RO_DIS, 1)
                .with(CtrlExt::DRV_LOAD, 1)
        });
    }

    /// What is left of the receive packet buffer for frames.
    fn receive_buffer_kib(&self) -> u64 {
        let taken = self.director().map_or(0, |config| config.capacity.kib());
        RX_BUFFER_KIB - u64::from(taken)
    }

    /// The high water mark of the receive packet buffer, in bytes (§4.6.3.2): above it is room for what is on its way when the
    /// peer is told to pause, with jumbo frames one more in each direction.
    pub(crate) fn high_mark(&self) -> u64 {
        let jumbo = u64::from(self.max_frame).saturating_sub(1514);
        self.receive_buffer_kib() * 1024 - RX_HEADROOM - 2 * jumbo
    }

    /// §4.6.7: all tables that have no value after a reset.
    fn clear_filters(&self) {
        for index in 0..=u8::MAX {
            if let Some(base) = BitTableBlock::base(index) {
                self.row(base).write(Mta::default());
                self.row(base).write(Vfta::default());
                self.row(base).write(Pfuta::default());
            }
            if let Some(base) = FiveTupleBlock::base(index) {
                self.row(base).write(Ftqf::default());
            }
            if let Some(base) = EtherTypeBlock::base(index) {
                self.row(base).write(Etqf::default());
                self.row(base).write(Etqs::default());
            }
            if let Some(base) = PoolBlock::base(index) {
                self.row(base).write(Pfvlvf::default());
            }
            if let Some(base) = PoolMaskBlock::base(index) {
                self.row(base).write(Pfvlvfb::default());
            }
            if let Some(base) = ReceiveAddressBlock::base(index) {
                self.clear_address(base, index);
            }
        }
    }

    /// The first address is the port's own, for the kernel's pool; the others are off.
    fn clear_address(&self, base: usize, index: u8) {
        let row = self.row::<ReceiveAddressBlock>(base);
        if index > 0 {
            row.write(Rah::default());
            row.write(Ral::default());
        }
        let pools = u64::from(index == 0) << self.kernel_pool();
        row.write(MpsarLow::from_bits(pools & 0xFFFF_FFFF));
        row.write(MpsarHigh::from_bits(pools >> 32));
    }

    /// §4.6.7, the port's part of it.
    fn set_up_receive(&self) -> Result<(), InitError> {
        let port = self.port();
        let mfs = u64::from(self.max_frame) + CRC;
        if mfs > MAX_FRAME {
            return Err(InitError::MaxFrame(self.max_frame));
        }
        port.write(Maxfrs::default().with(Maxfrs::MFS, mfs));
        port.modify(|hlreg0: Hlreg0| {
            hlreg0
                .with(Hlreg0::JUMBOEN, u64::from(mfs > 1518))
                .with(Hlreg0::TXCRCEN, 1)
                .with(Hlreg0::RXCRCSTRP, 1)
                .with(Hlreg0::TXPADEN, 1)
        });
        port.write(Fctrl::default().with(Fctrl::BAM, 1));
        port.write(Mcstctrl::default());
        // No VLAN is let in until one is granted.
        port.modify(|vlnctrl: Vlnctrl| vlnctrl.with(Vlnctrl::VFE, 1));
        port.modify(|rxcsum: Rxcsum| rxcsum.with(Rxcsum::PCSD, 1));
        port.modify(|rfctl: Rfctl| rfctl.with(Rfctl::RSC_DIS, 1));
        port.modify(|rdrxctl: Rdrxctl| {
            rdrxctl
                .with(Rdrxctl::CRC_STRIP, 1)
                .with(Rdrxctl::RSCFRSTSIZE, 0)
                .with(Rdrxctl::RSCACKC, 1)
                .with(Rdrxctl::FCOE_WRFIX, 1)
        });
        for class in 0..TrafficClassBlock::COUNT {
            if let Some(base) = TrafficClassBlock::base(class) {
                let size = match class {
                    0 => self.receive_buffer_kib(),
                    _ => 0,
                };
                self.row(base)
                    .write(Rxpbsize::default().with(Rxpbsize::SIZE, size));
            }
        }
        let mrqe = match self.sharing {
            Sharing::Queues => 0,
            Sharing::Pools => 8,
        };
        port.write(Mrqc::default().with(Mrqc::MRQE, mrqe));
        // Dropping goes by each queue's own bit (§4.6.11.3.4), of which a virtual function is not asked.
        for queue in 0..QUEUES {
            let select = Pfqde::default().with(Pfqde::QUEUE_IDX, queue.into());
            let drops = u64::from(queue < 2 * self.functions());
            port.write(select.with(Pfqde::WE, 1).with(Pfqde::QDE, drops));
        }
        Ok(())
    }

    /// §4.6.8, the port's part of it.
    fn set_up_transmit(&self) {
        let port = self.port();
        port.modify(|rttdcs: Rttdcs| rttdcs.with(Rttdcs::ARBDIS, 1));
        let longest_kib = u64::from(self.max_frame).div_ceil(1024);
        for class in 0..TrafficClassBlock::COUNT {
            let Some(base) = TrafficClassBlock::base(class) else {
                continue;
            };
            let (size, threshold) = match class {
                0 => (TX_BUFFER_KIB, TX_BUFFER_KIB - longest_kib),
                _ => (0, 0),
            };
            let row = self.row(base);
            row.write(Txpbsize::default().with(Txpbsize::SIZE, size));
            row.write(Txpbthresh::default().with(Txpbthresh::THRESH, threshold));
        }
        let mtqc = match self.sharing {
            Sharing::Queues => Mtqc::default(),
            Sharing::Pools => Mtqc::default()
                .with(Mtqc::VT_ENA, 1)
                .with(Mtqc::NUM_TC_OR_Q, 1),
        };
        port.write(mtqc);
        let most = Dtxmxszrq::MAX_BYTES_NUM_REQ;
        port.modify(|dtxmxszrq: Dtxmxszrq| dtxmxszrq.with(most, most.max()));
        for queue in 0..QUEUES {
            port.write(Rttdqsel::default().with(Rttdqsel::TXDQ_IDX, queue.into()));
            port.write(Rttdt1c::default());
        }
        self.clear_rates();
        port.modify(|rttdcs: Rttdcs| rttdcs.with(Rttdcs::ARBDIS, 0));
        port.modify(|dmatxctl: Dmatxctl| dmatxctl.with(Dmatxctl::TE, 1));
    }

    /// §4.6.10.1: frames that no filter leads anywhere go to the kernel's pool; no other gets what is meant for all, and
    /// nothing goes from one pool to another inside the port.
    fn set_up_pools(&self) {
        let port = self.port();
        port.write(
            Pfvtctl::default()
                .with(Pfvtctl::VT_ENA, 1)
                .with(Pfvtctl::DEF_PL, self.kernel_pool().into())
                .with(Pfvtctl::RPL_EN, 1),
        );
        port.write(Pfdtxgswc::default());
        for index in 0..2 {
            if let Some(base) = PoolMaskBlock::base(index) {
                let kernel = 1 << self.kernel_pool() >> (32 * index) & 0xFFFF_FFFF;
                self.row(base).write(Pfvfre::from_bits(kernel));
                self.row(base).write(Pfvfte::from_bits(kernel));
            }
        }
        self.clear_pools();
        let mode = self.function_mode();
        port.modify(|gcr: GcrExt| {
            gcr.with(GcrExt::VT_MODE, mode)
                .with(GcrExt::MSIX_EN, u64::from(mode != 0))
        });
        self.watch_functions();
    }
}
