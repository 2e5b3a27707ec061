//! Whose turn it is, where several share a way that is sometimes full.

/// Whose turn it is among senders who share one way out.
///
/// Where there is not room for all, the next round goes on with the one who had none left; so none of them is served twice
/// more often than another who has as much to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turns {
    /// Who is asked first in the next round.
    first: usize,
}

impl Turns {
    /// Begins with the first sender.
    #[must_use]
    pub const fn new() -> Self {
        Self { first: 0 }
    }

    /// Asks each of `count` senders once, for up to `share` items, and stops where there is no `room` for one more.
    ///
    /// `take` is given the sender and the most that it may take, and says how many it took. Returns how many items all took
    /// together.
    pub fn round(
        &mut self,
        count: usize,
        room: usize,
        share: usize,
        mut take: impl FnMut(usize, usize) -> usize,
    ) -> usize {
        let mut taken = 0;
        let first = self.first;
        for sender in (0..count).map(|step| (first + step) % count) {
            let left = room - taken;
            if left == 0 {
                self.first = sender;
                break;
            }
            let most = left.min(share);
            taken += take(sender, most).min(most);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_round_asks_everybody_once() {
        let mut asked = [0; 3];
        let taken = Turns::new().round(3, 10, 2, |sender, most| {
            asked[sender] += most;
            most
        });
        assert_eq!((asked, taken), ([2; 3], 6));
        let nobody = Turns::new().round(0, 10, 2, |_, _| unreachable!());
        assert_eq!(nobody, 0);
    }

    #[test]
    fn one_who_takes_all_the_room_waits_for_the_others() {
        let (mut turns, mut served) = (Turns::new(), Vec::new());
        for _ in 0..4 {
            turns.round(3, 1, 5, |sender, most| {
                served.push(sender);
                most
            });
        }
        assert_eq!(served, [0, 1, 2, 0]);
    }

    proptest! {
        /// "None is served twice more often than another who has as much to send."
        #[test]
        fn the_hungry_are_served_equally_often(
            hungry in prop::collection::vec(any::<bool>(), 1..9),
            rooms in prop::collection::vec(0..12_usize, 0..200),
            share in 1..4_usize,
        ) {
            let mut turns = Turns::new();
            let mut served = vec![0_i32; hungry.len()];
            for room in rooms {
                let taken = turns.round(hungry.len(), room, share, |sender, most| {
                    served[sender] += i32::from(hungry[sender]);
                    if hungry[sender] { most } else { 0 }
                });
                prop_assert!(taken <= room);
            }
            let of_the_hungry = served.iter().zip(&hungry).filter(|(_, hungry)| **hungry);
            let counts: Vec<_> = of_the_hungry.map(|(served, _)| *served).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            if let (Some(least), Some(most)) = (least, most) {
                prop_assert!(most - least <= 1, "{counts:?}");
            }
        }
    }
}
