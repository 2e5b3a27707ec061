//! What an attacking process says of its attacks, and what becomes of them.
//!
//! | line of its log | means |
//! |---|---|
//! | `attack NAME DEVICE` | what comes next must not work |
//! | `refused NAME DEVICE HOW` | the kernel said no, and let the process live |
//! | `survived NAME DEVICE WHAT` | the process was not stopped; `WHAT` is what it sees of the effect |
//!
//! A process that ends between the first line and another was stopped by what ended it.

use core::fmt::Display;

use heapless::String;

use crate::mailbox::Text;
use crate::report;

/// Longest name of an attack, or of a device.
const NAME_MAX: usize = 32;
/// Longest explanation.
const WHY_MAX: usize = 160;

/// What a line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// An attack comes.
    Announced,
    /// It was refused.
    Refused,
    /// It was not.
    Survived,
}

impl Verdict {
    /// What `text` says, if it speaks of an attack.
    pub(crate) fn of(text: &str) -> Option<Self> {
        match text.split(' ').next()? {
            "attack" => Some(Self::Announced),
            "refused" => Some(Self::Refused),
            "survived" => Some(Self::Survived),
            _ => None,
        }
    }
}

/// An attack that has begun.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    name: String<NAME_MAX>,
    device: String<NAME_MAX>,
}

impl Attack {
    /// The attack that `text` announces.
    pub(crate) fn announced(text: &Text) -> Option<Self> {
        let mut words = text.split(' ').skip(1);
        Some(Self {
            name: words.next()?.chars().take(NAME_MAX).collect(),
            device: words.next()?.chars().take(NAME_MAX).collect(),
        })
    }

    /// Says that it begins: the host does what belongs to it.
    pub(crate) fn begun(&self) {
        report::attempt(&self.name, &self.device);
    }

    /// Says that it was stopped, and by what.
    pub(crate) fn stopped(&self, by: impl Display) {
        let by = cut(by);
        self.report(Ok(&by));
    }

    /// Says that it was not, and what is seen of that.
    pub(crate) fn succeeded(&self, evidence: impl Display) {
        let evidence = cut(evidence);
        self.report(Err(&evidence));
    }

    fn report(&self, outcome: Result<&str, &str>) {
        report::attack(&report::Attack {
            name: &self.name,
            device: &self.device,
            outcome,
        });
    }
}

/// What is said of an attack, behind its name and device.
pub(crate) fn rest(text: &Text) -> &str {
    text.splitn(4, ' ').nth(3).unwrap_or("")
}

fn cut(text: impl Display) -> String<WHY_MAX> {
    use core::fmt::Write;
    let mut short = String::new();
    // What does not fit is left out.
    let _is_cut = write!(short, "{text}").is_err();
    short
}
