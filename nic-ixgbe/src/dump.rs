//! All registers of the port as they are, to look at or to send in.
//!
//! None is read whose reading changes something; [`LEFT_OUT`] says which those are.

use parakernel_core::mmio::{Register, Registers};

use crate::{
    device::Device,
    regs::{self, director, function, table},
};

/// A register, or a row of them.
struct Row {
    name: &'static str,
    first: usize,
    /// Where number `index` lies, from the first on; `None` beyond the last.
    place: fn(u8) -> Option<usize>,
}

/// Registers that a dump does not have, and why.
pub const LEFT_OUT: [(&str, &str); 6] = [
    ("Eicr", "reading it acknowledges interrupts"),
    ("Swsm", "reading it takes the semaphore"),
    (
        "counters",
        "reading them clears them: see the statistics of the port, its queues and its Flow Director",
    ),
    (
        "Pfmbmem",
        "what a virtual function and the kernel say is theirs",
    ),
    ("Eimc, EimcEx, Pfvflrec", "they can only be written"),
    (
        "Pfqde, Rttdt1c, Rttbcnrc",
        "they are a window on one queue, which another register selects",
    ),
];

const fn only(index: u8) -> Option<usize> {
    if index == 0 { Some(0) } else { None }
}

/// Rows of registers by their types.
macro_rules! rows {
    ($($module:ident $name:ident in $place:expr,)*) => {
        &[$(Row {
            name: stringify!($name),
            first: <$module::$name as Register>::OFFSET,
            place: $place,
        }),*]
    };
}

const ROWS: &[Row] = rows! {
    regs Ctrl in only,
    regs Status in only,
    regs CtrlExt in only,
    regs Esdp in only,
    regs Eims in only,
    regs Eiac in only,
    regs Gpie in only,
    regs IvarMisc in only,
    table Eitr in table::EitrBlock::base,
    table Ivar in table::IvarBlock::base,
    table EimsEx in table::VectorMaskBlock::base,
    table EiamEx in table::VectorMaskBlock::base,
    regs Rdbal in regs::RxQueueBlock::base,
    regs Rdbah in regs::RxQueueBlock::base,
    regs Rdlen in regs::RxQueueBlock::base,
    regs DcaRxctrl in regs::RxQueueBlock::base,
    regs Rdh in regs::RxQueueBlock::base,
    regs Srrctl in regs::RxQueueBlock::base,
    regs Rdt in regs::RxQueueBlock::base,
    regs Rxdctl in regs::RxQueueBlock::base,
    regs Rdrxctl in only,
    regs Rxctrl in only,
    table Rxpbsize in table::TrafficClassBlock::base,
    table Fcrtl in table::TrafficClassBlock::base,
    table Fcrth in table::TrafficClassBlock::base,
    table Fcttv in table::PauseTimeBlock::base,
    regs Fcrtv in only,
    regs Fccfg in only,
    regs Hlreg0 in only,
    regs Maxfrs in only,
    regs Mflcn in only,
    regs Autoc in only,
    regs Links in only,
    regs Autoc2 in only,
    regs Anlp1 in only,
    regs Rttdcs in only,
    table Txpbthresh in table::TrafficClassBlock::base,
    regs Rttbcnrm in only,
    regs Dmatxctl in only,
    regs Rxcsum in only,
    regs Rfctl in only,
    regs Fctrl in only,
    regs Vlnctrl in only,
    regs Mcstctrl in only,
    table Etqf in table::EtherTypeBlock::base,
    table Etqs in table::EtherTypeBlock::base,
    regs Pfvtctl in only,
    table Pfvfre in half,
    table Mta in table::BitTableBlock::base,
    regs Mrqc in only,
    table Reta in table::RetaBlock::base,
    table Rssrk in table::RssrkBlock::base,
    regs Tdbal in regs::TxQueueBlock::base,
    regs Tdbah in regs::TxQueueBlock::base,
    regs Tdlen in regs::TxQueueBlock::base,
    regs DcaTxctrl in regs::TxQueueBlock::base,
    regs Tdh in regs::TxQueueBlock::base,
    regs Tdt in regs::TxQueueBlock::base,
    regs Txdctl in regs::TxQueueBlock::base,
    regs Tdwbal in regs::TxQueueBlock::base,
    regs Tdwbah in regs::TxQueueBlock::base,
    table Pfvmvir in table::PoolBlock::base,
    regs Dtxmxszrq in only,
    table Pfvfte in half,
    regs Mtqc in only,
    table Pfvfspoof in table::SpoofBlock::base,
    regs Pfdtxgswc in only,
    table Rqsmr in table::CounterMapBlock::base,
    table Tqsm in table::CounterMapBlock::base,
    regs Secrxctrl in only,
    regs Secrxstat in only,
    table Vfta in table::BitTableBlock::base,
    table Ral in table::ReceiveAddressBlock::base,
    table Rah in table::ReceiveAddressBlock::base,
    table MpsarLow in table::ReceiveAddressBlock::base,
    table MpsarHigh in table::ReceiveAddressBlock::base,
    table Txpbsize in table::TrafficClassBlock::base,
    table Saqf in table::FiveTupleBlock::base,
    table Daqf in table::FiveTupleBlock::base,
    table Sdpqf in table::FiveTupleBlock::base,
    table Ftqf in table::FiveTupleBlock::base,
    table L34timir in table::FiveTupleBlock::base,
    director Fdirctrl in only,
    director Fdircmd in only,
    director Fdirfree in only,
    director Fdirdip4m in only,
    director Fdirsip4m in only,
    director Fdirtcpm in only,
    director Fdirudpm in only,
    director Fdirhkey in only,
    director Fdirm in only,
    director Fdirip6m in only,
    table Pfvml2flt in table::PoolBlock::base,
    table Pfvlvf in table::PoolBlock::base,
    table Pfvlvfb in table::PoolMaskBlock::base,
    table Pfuta in table::BitTableBlock::base,
    function Pfmbicr in function::MailboxCauseBlock::base,
    function Pfmbimr in function::FunctionMaskBlock::base,
    function Pfvflre in function::FunctionResetBlock::base,
    function Pfmailbox in function::MailboxBlock::base,
    regs Eec in only,
    regs Fwsm in only,
    regs SwFwSync in only,
    regs GcrExt in only,
};

/// Two words of pools.
const fn half(index: u8) -> Option<usize> {
    if index < 2 {
        table::PoolMaskBlock::base(index)
    } else {
        None
    }
}

/// A register and what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Dumped {
    /// Its name in [`regs`].
    pub name: &'static str,
    /// Its number in its row; 0 where there is one.
    pub index: u8,
    /// Where it lies, in bytes from the beginning of BAR 0.
    pub offset: usize,
    /// What it says.
    pub value: u32,
}

/// Goes through the registers; made by [`Device::dump`].
#[derive(Debug)]
pub struct Dump<'d, R> {
    registers: &'d R,
    row: usize,
    index: u8,
}

impl<R: Registers> Device<'_, R> {
    /// All registers but [`LEFT_OUT`], in the datasheet's order, each read when it is asked for. Nothing changes by that. Rings
    /// and buffers are told by their bus addresses: not for processes to see.
    pub const fn dump(&self) -> Dump<'_, R> {
        Dump {
            registers: self.registers(),
            row: 0,
            index: 0,
        }
    }
}

impl<R: Registers> Iterator for Dump<'_, R> {
    type Item = Dumped;

    fn next(&mut self) -> Option<Dumped> {
        loop {
            let row = ROWS.get(self.row)?;
            let index = self.index;
            let Some(place) = (row.place)(index) else {
                self.row += 1;
                self.index = 0;
                continue;
            };
            match index.checked_add(1) {
                Some(next) => self.index = next,
                None => (self.row, self.index) = (self.row + 1, 0),
            }
            let offset = row.first + place;
            return Some(Dumped {
                name: row.name,
                index,
                offset,
                value: self.registers.read32(offset),
            });
        }
    }
}
