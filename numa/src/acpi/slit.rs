//! System Locality Information Table: relative distances, ACPI 6.3 §5.2.17.

use zerocopy::byteorder::little_endian::U64;

use super::{Error, Problem, Signature, Table};

/// Distances between all pairs of proximity domains.
#[derive(Clone, Copy, Debug)]
pub struct Slit<'a> {
    domains: usize,
    /// Row by row, `domains` squared bytes.
    matrix: &'a [u8],
}

/// How far memory is, relative to 10 for a domain's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Distance(u8);

impl Distance {
    /// A domain's distance from itself.
    pub const LOCAL: Self = Self(10);
    /// What is assumed of another domain where firmware says nothing.
    pub const REMOTE: Self = Self(20);
    /// There is no way from one to the other.
    pub const UNREACHABLE: Self = Self(u8::MAX);

    /// The distance with this number, or `None` below 10: those are reserved.
    #[must_use]
    pub const fn new(distance: u8) -> Option<Self> {
        if distance < Self::LOCAL.0 {
            return None;
        }
        Some(Self(distance))
    }

    /// The distance as a number, 10 to 255.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

impl<'a> Slit<'a> {
    /// Checks the table that starts with `bytes`.
    ///
    /// # Errors
    ///
    /// Any [`Problem`] of the table; [`Problem::Value`] for a distance below 10, or a domain that is not 10 from itself.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::new(Table::parse(bytes, Signature::SLIT)?)
    }

    pub(super) fn new(table: Table<'a>) -> Result<Self, Error> {
        let (domains, rest) = table.body::<U64>()?;
        let domains = domains.get();
        let offset = Table::HEADER_LEN + size_of::<U64>();
        let count = usize::try_from(domains).unwrap_or(usize::MAX);
        let needed = count.saturating_mul(count);
        let len = rest.len();
        let matrix = rest
            .get(..needed)
            .ok_or_else(|| table.error(offset, Problem::TooShort { len, needed }))?;
        let slit = Self {
            domains: count,
            matrix,
        };
        if let Some((index, value)) = slit.first_bad() {
            let field = "a distance";
            let value = value.into();
            return Err(table.error(offset + index, Problem::Value { field, value }));
        }
        Ok(slit)
    }

    /// How many proximity domains the table covers: those numbered below.
    #[must_use]
    pub const fn domains(&self) -> usize {
        self.domains
    }

    /// How far domain `to` is for domain `from`, or `None` where the table does not cover both.
    ///
    /// The way back may be longer.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> Option<Distance> {
        let from = usize::try_from(from)
            .ok()
            .filter(|from| *from < self.domains)?;
        let to = usize::try_from(to).ok().filter(|to| *to < self.domains)?;
        let distance = self.matrix.get(from * self.domains + to)?;
        Distance::new(*distance)
    }

    /// The first distance that cannot be, with its index in the matrix.
    fn first_bad(&self) -> Option<(usize, u8)> {
        let on_diagonal = |index: usize| index.is_multiple_of(self.domains + 1);
        let is_bad = |index, distance| {
            distance < Distance::LOCAL.0 || (on_diagonal(index) && distance != Distance::LOCAL.0)
        };
        let mut distances = self.matrix.iter().copied().enumerate();
        distances.find(|&(index, distance)| is_bad(index, distance))
    }
}
