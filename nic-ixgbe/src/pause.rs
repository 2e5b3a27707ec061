//! Pauses (802.3x): whether the port obeys its peer's, and asks for some itself.
//!
//! Off, as a port comes. A pause stops *all* queues of the port that obeys it, so whoever is at the other end of the wire
//! decides then when processes send; and asking for pauses makes the peer hold back the frames of all, where the port would
//! lose some. Queues never ask for one: they drop when they have no buffer. It is the port's own packet buffer that fills,
//! when memory is slower than the wire.
//!
//! With an SFP+ module there is no negotiation, so what [`Setup::pauses`](crate::device::Setup::pauses) says is forced. On a
//! backplane the port offers it, and what both sides agreed on counts once the link is up: see [`Device::settle_pauses`].

use parakernel_core::mmio::{Register, Registers};

use crate::{
    device::Device,
    id::Kind,
    regs::{
        Anlp1, Autoc, Fccfg, Fcrtv, Links, Mflcn,
        table::{Fcrth, Fcrtl, Fcttv, PauseTimeBlock, TrafficClassBlock},
    },
};

/// How long a pause is, in units of 512 bits: 33 ms at 10 Gb/s. It is asked for again in half that time.
const PAUSE_TIME: u64 = 0xFFFF;

/// `FCCFG`: pauses of the link as a whole (§8.2.3.3.7).
const LINK_PAUSES: u64 = 1;

/// The unit of water marks, in bytes (§8.2.3.3.3).
const MARK_UNIT: u64 = 32;

/// Which pauses there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Pauses {
    /// None.
    None,
    /// The port obeys its peer's.
    Obeyed,
    /// The port asks its peer for some.
    Asked,
    /// Both.
    Both,
}

impl Pauses {
    /// Whether the port obeys.
    #[must_use]
    pub const fn are_obeyed(self) -> bool {
        matches!(self, Self::Obeyed | Self::Both)
    }

    /// Whether the port asks.
    #[must_use]
    pub const fn are_asked(self) -> bool {
        matches!(self, Self::Asked | Self::Both)
    }

    /// What a port offers that wants these: pauses in both directions, and in one (802.3 annex 28B).
    const fn offer(self) -> [bool; 2] {
        match self {
            Self::None => [false, false],
            Self::Obeyed => [true, true],
            Self::Asked => [false, true],
            Self::Both => [true, false],
        }
    }

    /// What this side does, of what it wants, where its peer offers that (802.3 annex 28B, table 28B-3).
    const fn agree(self, peer: [bool; 2]) -> Self {
        match (self.offer(), peer) {
            // Both sides can both ways; this one may want to obey only.
            ([true, _], [true, _]) => self,
            ([true, true], [false, true]) => Self::Obeyed,
            ([false, true], [true, true]) => Self::Asked,
            _ => Self::None,
        }
    }
}

impl<R: Registers> Device<'_, R> {
    /// What pauses there are now, after the link came up: on a backplane, what both sides agreed on, which is in force then.
    #[must_use]
    pub fn settle_pauses(&self) -> Pauses {
        let wanted = self.wanted_pauses();
        if self.kind() == Kind::Sfp {
            return wanted;
        }
        let port = self.port();
        let agreed = if port.read::<Links>().is_set(Links::KX_AN_COMP) {
            let peer = port.read::<Anlp1>();
            wanted.agree([peer.is_set(Anlp1::SYM_PAUSE), peer.is_set(Anlp1::ASM_PAUSE)])
        } else {
            Pauses::None
        };
        self.write_pauses(agreed);
        agreed
    }

    /// §4.6.3.2, §4.6.11.3: before the link is up on a backplane there are none yet.
    pub(crate) fn set_up_pauses(&self) {
        let pauses = match self.kind() {
            Kind::Sfp => self.wanted_pauses(),
            Kind::Backplane => Pauses::None,
        };
        self.write_pauses(pauses);
    }

    /// What a link that is negotiated offers its peer, of [`Autoc`].
    pub(crate) fn offer_pauses(&self, autoc: Autoc) -> Autoc {
        let [symmetric, asymmetric] = self.wanted_pauses().offer();
        autoc
            .with(Autoc::SYM_PAUSE, symmetric.into())
            .with(Autoc::ASM_PAUSE, asymmetric.into())
    }

    /// The high water mark is set in any case (§4.6.3.2). The peer is told to go on at half of it.
    fn write_pauses(&self, pauses: Pauses) {
        let port = self.port();
        let (obeys, asks) = (pauses.are_obeyed().into(), u64::from(pauses.are_asked()));
        port.modify(|mflcn: Mflcn| mflcn.with(Mflcn::RFCE, obeys).with(Mflcn::DPF, 1));
        for index in 0..PauseTimeBlock::COUNT {
            if let Some(base) = PauseTimeBlock::base(index) {
                let time = PAUSE_TIME * asks;
                self.row(base).write(
                    Fcttv::default()
                        .with(Fcttv::TTV_0, time)
                        .with(Fcttv::TTV_1, time),
                );
            }
        }
        port.write(Fcrtv::default().with(Fcrtv::FC_REFRESH_TH, asks * PAUSE_TIME / 2));
        for class in 0..TrafficClassBlock::COUNT {
            let Some(base) = TrafficClassBlock::base(class) else {
                continue;
            };
            let mark = if class == 0 {
                self.high_mark() / MARK_UNIT
            } else {
                0
            };
            let asks = if class == 0 { asks } else { 0 };
            let row = self.row(base);
            row.write(
                Fcrtl::default()
                    .with(Fcrtl::RTL, asks * mark / 2)
                    .with(Fcrtl::XONE, asks),
            );
            row.write(
                Fcrth::default()
                    .with(Fcrth::RTH, mark)
                    .with(Fcrth::FCEN, asks),
            );
        }
        port.write(Fccfg::default().with(Fccfg::TFCE, asks * LINK_PAUSES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 802.3 annex 28B.3, written out: what each side's two bits lead to.
    #[test]
    fn both_sides_agree_on_the_same() {
        use Pauses::{Asked, Both, None, Obeyed};
        let all = [None, Obeyed, Asked, Both];
        for local in all {
            for peer in all {
                let here = local.agree(peer.offer());
                let there = peer.agree(local.offer());
                // Who is asked must obey; nobody does what it does not want.
                assert!(
                    !here.are_asked() || there.are_obeyed(),
                    "{local:?} {peer:?}"
                );
                assert!(!here.are_asked() || local.are_asked());
                assert!(!here.are_obeyed() || local.are_obeyed());
            }
        }
        for (local, peer, expected) in [
            (Both, Both, Both),
            (Both, Obeyed, Both),
            (Both, Asked, None),
            (Obeyed, Asked, Obeyed),
            (Asked, Obeyed, Asked),
            (Asked, Both, None),
            (Obeyed, Both, Obeyed),
            (None, Both, None),
        ] {
            assert_eq!(local.agree(peer.offer()), expected, "{local:?} {peer:?}");
        }
    }
}
