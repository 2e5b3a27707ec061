//! What of a process's commands may reach the device.

use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::RegionTable,
    ring::Position,
    validate::{DescriptorValidator, Validated, Violation},
    volume::Volume,
};

use crate::{
    error::QueueError,
    ring::{BLOCK, MAX_BLOCKS, Opcode, Words},
};

/// Only this module can make one.
#[derive(Debug)]
pub struct Seal(());

/// The rules of one queue, and which ids are in flight.
#[derive(Debug)]
pub struct Validator<const N: usize> {
    volume: Volume,
    busy: [bool; N],
    in_flight: u32,
    accepted: Position,
}

impl<const N: usize> Validator<N> {
    /// A validator for an empty queue that is confined to `volume`.
    #[must_use]
    pub const fn new(volume: Volume) -> Self {
        Self {
            volume,
            busy: [false; N],
            in_flight: 0,
            accepted: Position::START,
        }
    }

    /// How far commands were accepted.
    #[must_use]
    pub const fn accepted(&self) -> Position {
        self.accepted
    }

    /// How many commands a process claims to have published.
    ///
    /// # Errors
    ///
    /// `TailJump` where that is more than there is room for; a lower tail is almost 2³² ahead.
    pub fn new_entries(&self, claimed: Position) -> Result<u32, Violation> {
        let new = claimed.since(self.accepted);
        if u64::from(new) + u64::from(self.in_flight) > N as u64 {
            let (claimed, accepted) = (claimed.as_u32(), self.accepted.as_u32());
            return Err(Violation::TailJump { claimed, accepted });
        }
        Ok(new)
    }

    /// Notes that the device answered.
    ///
    /// # Errors
    ///
    /// Where it answered what is not in flight.
    pub fn ended(&mut self, id: u16) -> Result<(), QueueError> {
        match self.busy.get_mut(usize::from(id)) {
            Some(busy) if *busy => *busy = false,
            _ => return Err(QueueError::NotInFlight(id)),
        }
        self.in_flight -= 1;
        Ok(())
    }

    /// Checks what a command names, and returns where its data is on the bus; 0 for a flush.
    fn target(&self, command: Words, regions: &RegionTable<'_>) -> Result<u64, Violation> {
        let number = command.opcode();
        let opcode = Opcode::new(number).ok_or(Violation::Opcode { opcode: number })?;
        let wanted = match opcode {
            Opcode::Read => Direction::FromDevice,
            Opcode::Write => Direction::ToDevice,
            Opcode::Flush => return nothing_to_move(command),
        };
        let blocks = u64::from(command.blocks());
        let (len, iova) = (blocks * BLOCK, Iova::new(command.address()));
        if !(1..=MAX_BLOCKS).contains(&command.blocks()) {
            return Err(Violation::Length { len });
        }
        if !iova.is_aligned(BLOCK) {
            return Err(Violation::Forbidden {
                field: iova.as_u64(),
            });
        }
        self.volume.check(command.lba(), blocks)?;
        regions.translate(iova, len, wanted).map(BusAddress::as_u64)
    }
}

/// A flush moves no data: it has neither blocks nor an address.
fn nothing_to_move(command: Words) -> Result<u64, Violation> {
    match (command.blocks(), command.address()) {
        (0, 0) => Ok(0),
        (0, field) => Err(Violation::Forbidden { field }),
        (blocks, _) => Err(Violation::Length {
            len: u64::from(blocks) * BLOCK,
        }),
    }
}

impl<const N: usize> DescriptorValidator for Validator<N> {
    type Submission = Words;
    type Accepted = (Position, Words);
    type Seal = Seal;

    fn validate(
        &mut self,
        command: Words,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        if command.reserved() != 0 {
            return Err(Violation::Forbidden {
                field: command.reserved(),
            });
        }
        let id = u32::from(command.id());
        match self.busy.get(usize::from(command.id())) {
            None => return Err(Violation::IndexOutOfRange { index: id }),
            Some(true) => return Err(Violation::Busy { id }),
            Some(false) => {}
        }
        let address = self.target(command, regions)?;
        self.busy[usize::from(command.id())] = true;
        self.in_flight += 1;
        let at = self.accepted;
        self.accepted = at.after();
        Ok(Validated::new(
            (at, command.with_address(address)),
            Seal(()),
        ))
    }
}
